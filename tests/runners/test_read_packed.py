"""What an archive says is read without running it, and is what a pod would run."""

import gzip
import io
import json
import re
import tarfile

import pytest

import flautim_lab as lab
from flautim_lab.catalog.code import code_of
from flautim_lab.catalog.loading import assemble
from flautim_lab.catalog.things import Column, DatasetVersion, ModelVersion
from flautim_lab.experiment.code import FREE
from flautim_lab.runners.pod_client import check_clients
from flautim_lab.runners.pod_files import pack, read_packed
from tests.federations import Net, iris_frame

SOURCE = '''"""A model with more in its file than its class."""

import torch
from torch import nn

WIDTH = 6  # a constant


def layers(inputs, classes):
    """Return the layers."""
    return nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)


class Wide(nn.Module):
    # A comment stays, too.
    def __init__(self, hidden=3, inputs=4):
        super().__init__()
        self.all = nn.Sequential(*layers(inputs, 3))

    def forward(self, x):
        return self.all(x)


class Unused(Wide):
    pass
'''
KIND = ("setosa", "versicolor", "virginica")
COLUMNS = (
    *(Column(f"x{n}", "number", low=0.0, high=8.0) for n in range(4)),
    Column("species", "text", values=KIND),
)


def version(institution, path="iris.csv", **more):
    settings = {"columns": COLUMNS, "target": "species", "rows": 150, "sha256": "", "path": path}
    return DatasetVersion(f"{institution}/iris@1", 1, **settings | more)


@pytest.mark.parametrize(
    ("datasets", "settings"),
    [
        (["ufmg"], {}),
        (["ufmg", "ifnmg"], {"rounds": 3, "lr": 0.1, "model_args": {"hidden": 4}}),
        (["ufmg", "ifnmg"], {"clients": 4, "min_clients": 2, "strategy": "FedAdam"}),
        (
            ["ufmg"],
            {"strategy_args": {"eta": 1}, "strategy": "FedAdam"},
        ),
        (
            ["ufmg", "ifnmg"],
            {"dataset_args": {"missing": "mean", "ignore": ["x0"]}, "model_args": {"inputs": 3}},
        ),
        (["ufmg"], {"lr": 1, "validation": 0, "task": "classification", "seed": 3, "on": "local"}),
    ],
)
def test_the_code_of_a_saved_experiment_is_that_of_its_run(datasets, settings):
    net = ModelVersion("ufmg/vision/wide@2", 2, "Wide", SOURCE, "Wide")
    data = [version(each) for each in datasets]
    made = assemble(data, net, settings, "First")
    read = read_packed(pack(made))
    expected = code_of(net, settings, data)
    assert (read.code, read.code.hash) == (expected, expected.hash)
    assert read.homes == dict.fromkeys(datasets, "iris.csv")
    assert read.settings["rounds"] == settings.get("rounds", 10)


def test_an_experiment_of_a_notebook_has_its_source_and_no_homes():
    made = lab.Experiment(lab.CSVDataset(iris_frame(), target="species"), Net, clients=3)
    read = read_packed(pack(made))
    assert read.homes == {}
    assert any("class Net" in text for text in read.code.files.values())
    assert read.code.guards["clients"] == 3


class Mine(lab.Experiment):
    """With a loop of its own."""

    def validation_loop(self, model, loader):
        return 1.0


@pytest.fixture(scope="module")
def at_home():
    """The files of an experiment on rows of two institutions, and its settings."""
    rows = iris_frame().groupby("species").head(2)
    homes = {"ufmg": "iris.csv", "ifnmg": "more/iris.csv"}
    data = lab.HomeDataset(rows, target="species", homes=homes)
    files = files_of(pack(Mine(data, Net, min_clients=2)))
    return files, json.loads(files["experiment.json"])


def files_of(packed):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as read:
        members = [each for each in read if each.isreg()]
        return {each.name: read.extractfile(each).read() for each in members}


def sent(files, settings):
    """What the service reads of an archive with other settings."""
    changed = files | {"experiment.json": json.dumps(settings).encode()}
    return read_packed(archive(list(changed.items())))


def other(value):
    """Another value of a setting."""
    kinds = {bool: True, int: 7, float: 0.5, str: "other", dict: {"a": 1}, list: ["other"]}
    made = kinds.get(type(value), 3)
    return made if made != value else False


def test_every_setting_is_of_the_code_but_those_that_tell_nothing_of_rows(at_home):
    files, settings = at_home
    code = sent(files, settings).code.hash
    for name, value in settings.items():
        for changed in (other(value), None):
            if name in (*FREE, "model", "format") or changed == value:
                continue
            try:
                read = sent(files, settings | {name: changed})
            except lab.ExperimentError:
                continue
            assert read.code.hash != code, name
        without = {key: kept for key, kept in settings.items() if key != name}
        if name == "class":
            assert sent(files, without).code.hash != code
        else:  # a class of its own may have another default
            with pytest.raises(lab.ExperimentError, match=f"its settings lack '{name}'|it has no"):
                sent(files, without)
    for name in FREE:
        assert sent(files, settings | {name: 3}).code.hash == code
    assert sent(files, settings | {"more": 3}).code.hash != code


def test_every_setting_of_the_dataset_is_of_the_code_but_where_its_sample_is(at_home):
    files, settings = at_home
    code, data = sent(files, settings).code.hash, settings["dataset"]
    for name, value in data.items():
        without = {key: kept for key, kept in data.items() if key != name}
        if name not in ("path", "homes"):
            with pytest.raises(lab.ExperimentError, match=f"lack '{name}'|no table"):
                sent(files, settings | {"dataset": without})
        for changed in (other(value), None):
            if changed == value or name in ("sha256", "rows", "name"):
                continue
            try:
                read = sent(files, settings | {"dataset": data | {name: changed}})
            except lab.ExperimentError:
                continue
            assert read.code.hash != code or not read.homes, name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "class"}, "its dataset is no table; use lab.HomeDataset"),
        ({"path": "/flautim/data/iris.csv"}, "its sample must be sent with it"),
        ({"root": "/flautim"}, "its sample must be sent with it"),
        ({"data": 1}, "no setting of a table at home named 'data'"),
        ({"homes": 5}, "its homes are no pairs of an institution and a path there"),
        ({"homes": [["ufmg"]]}, "its homes are no pairs"),
        ({"homes": {"ufmg": "iris.csv"}}, "its homes are no pairs"),
        ({"homes": [["ufmg", 5]]}, "its homes are no pairs"),
    ],
)
def test_a_dataset_that_a_pod_could_read_otherwise(at_home, changes, sentence):
    files, settings = at_home
    with pytest.raises(lab.ExperimentError, match=re.escape(sentence)):
        sent(files, settings | {"dataset": settings["dataset"] | changes})


def test_other_homes_or_their_order_are_other_code(at_home):
    files, settings = at_home
    code, data = sent(files, settings).code.hash, settings["dataset"]
    for homes, same in [
        ([["ufmg", "other.csv"], ["ifnmg", "more/iris.csv"]], True),  # the grant is of a dataset
        ([["ifnmg", "more/iris.csv"], ["ufmg", "iris.csv"]], False),
        ([["ufmg", "iris.csv"], ["usp", "iris.csv"]], False),
        ([["ufmg", "iris.csv"]], False),
    ]:
        read = sent(files, settings | {"dataset": data | {"homes": homes}})
        assert (read.code.hash == code) is same


def test_a_sample_of_other_columns_is_refused_where_it_is_run(at_home, tmp_path):
    files, settings = at_home
    rows = iris_frame().groupby("species").head(2).drop(columns="petal_width")
    rows.to_csv(tmp_path / "dataset.csv", index=False)
    fake = lab.CSVDataset(tmp_path / "dataset.csv", target="species")
    data = settings["dataset"] | {"sha256": fake.sha256}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    rows.to_csv(tmp_path / "dataset.csv", index=False)
    (tmp_path / "experiment.json").write_text(json.dumps(settings | {"dataset": data}))
    with pytest.raises(lab.ExperimentError, match=r"the columns of .* make the experiment anew"):
        lab.Experiment.load(tmp_path)


def archive(files, *, kind=tarfile.REGTYPE, link=""):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as made:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if link and name == "bundle/y.py":
                member.type, member.linkname = kind, link
            made.addfile(member, io.BytesIO(content))
    return gzip.compress(raw.getvalue())


@pytest.fixture
def files():
    made = lab.Experiment(lab.CSVDataset(iris_frame(), target="species"), Net, clients=3)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(pack(made)))) as read:
        members = [each for each in read if each.isreg()]
        return [(each.name, read.extractfile(each).read()) for each in members]


def test_what_a_pod_could_see_differently_is_refused(files):
    assert read_packed(archive(files)).homes == {}
    name = next(name for name, content in files if b"class Net" in content)
    index = json.loads(dict(files)["bundle/bundle.json"])
    other = json.dumps(index | {"files": [*index["files"], "x.py"]}).encode()
    for wrong, sentence in [
        (archive([*files, (name, b"evil = 1")]), "cannot be a file of it"),
        (archive([*files, (f"./{name}", b"evil = 1")]), "cannot be a file of it"),
        (archive([*files, ("bundle/more.py", b"x = 1")]), "its source is another than its index"),
        (archive([*files, ("more.pkl", b"x")]), "its source is another|cannot be a file"),
        (archive([*files, ("bundle/../x.py", b"x")]), "cannot be a file of it"),
        (archive([*files, ("/etc/x", b"x")]), "cannot be a file of|another"),
        (
            archive([*files, ("bundle/y.py", b"")], kind=tarfile.SYMTYPE, link="/etc/passwd"),
            "cannot be a file of it",
        ),
        (
            archive(
                [(n, c.replace(b"class", b"class ")) if n == name else (n, c) for n, c in files]
            ),
            "its source is another than its index says",
        ),
        (
            archive([(n, other if n.endswith("bundle.json") else c) for n, c in files]),
            "its source is another than its index says",
        ),
        (archive(files[:1]), "it has no"),
        (archive([(n, b"[]" if n == "experiment.json" else c) for n, c in files]), "no experiment"),
        (b"\x1f\x8bnothing", "is no experiment"),
        (gzip.compress(b"nothing" * 1000), "is no experiment"),
    ]:
        with pytest.raises(lab.ExperimentError, match=sentence):
            pytest.fail(f"{sentence}: {read_packed(wrong)}")


def test_a_second_part_is_read_as_a_pod_reads_it(files):
    """Two streams one after the other are one to gzip: what is behind the first counts too."""
    whole = archive(files)
    raw = gzip.decompress(whole)
    name = next(name for name, content in files if b"class Net" in content)
    behind = gzip.decompress(archive([(name, b"evil = 1")]))
    end = len(raw) - 10_240 if raw.endswith(b"\0" * 10_240) else len(raw.rstrip(b"\0"))
    end = -(-end // 512) * 512
    joined = gzip.compress(raw[:end]) + gzip.compress(behind)
    with pytest.raises(lab.ExperimentError, match="cannot be a file of it"):
        read_packed(joined)


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr("flautim_lab.runners.pod_files.MOST_UNPACKED", 2**20)
    with pytest.raises(lab.ExperimentError, match=re.escape("it holds more than 1 MiB")):
        read_packed(gzip.compress(bytes(2**21)))


def test_a_run_has_as_many_clients_as_its_experiment():
    made = lab.Experiment(lab.CSVDataset(iris_frame(), target="species"), Net, clients=3)
    check_clients(made, 3)
    with pytest.raises(lab.ExperimentError, match="with 1 client, and its experiment has 3"):
        check_clients(made, 1)
