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
    def __init__(self, hidden=3):
        super().__init__()
        self.all = nn.Sequential(*layers(4, 3))

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
    ],
)
def test_the_code_of_a_saved_experiment_is_that_of_its_run(datasets, settings):
    net = ModelVersion("ufmg/vision/wide@2", 2, "Wide", SOURCE, "Wide")
    made = assemble([version(each) for each in datasets], net, settings, "First")
    read = read_packed(pack(made))
    expected = code_of(net, settings, len(datasets))
    assert (read.code, read.code.hash) == (expected, expected.hash)
    assert read.homes == dict.fromkeys(datasets, "iris.csv")
    assert read.settings["rounds"] == settings.get("rounds", 10)


def test_an_experiment_of_a_notebook_has_its_source_and_no_homes():
    made = lab.Experiment(lab.CSVDataset(iris_frame(), target="species"), Net, clients=3)
    read = read_packed(pack(made))
    assert read.homes == {}
    assert any("class Net" in text for text in read.code.files.values())
    assert read.code.guards["clients"] == 3


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
