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


def archive(files, *, kind=tarfile.REGTYPE, link="", form=tarfile.USTAR_FORMAT):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as made:
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
        (archive([*files, (name, b"evil = 1")]), "it holds 'bundle/.*' twice"),
        (archive([*files, (f"./{name}", b"evil = 1")]), "cannot be the name of a file of it"),
        (archive([*files, ("bundle/more.py", b"x = 1")]), "its source is another than its index"),
        (archive([*files, ("more.pkl", b"x")]), "'more.pkl' cannot be a file of it"),
        (archive([*files, ("bundle/../x.py", b"x")]), "cannot be the name of a file of it"),
        (archive([*files, ("/etc/x", b"x")]), "cannot be the name of a file of it"),
        (
            archive([*files, ("bundle/y.py", b"")], kind=tarfile.SYMTYPE, link="/etc/passwd"),
            "'bundle/y.py' is no plain file",
        ),
        (
            archive([*files, ("bundle/y.py", b"")], kind=tarfile.LNKTYPE, link=name),
            "'bundle/y.py' is no plain file",
        ),
        (archive([*files, ("bundle/y.py", b"")], kind=tarfile.CHRTYPE, link="x"), "no plain file"),
        # Headers that say something of the file behind them: its name, its size, that it is sparse.
        (archive([*files, ("bundle/é" * 40, b"")], form=tarfile.PAX_FORMAT), "no plain file"),
        (archive([*files, ("bundle/" + "x" * 99, b"")], form=tarfile.GNU_FORMAT), "no plain file"),
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
        (archive([*files, *((f"bundle/{n}.py", b"") for n in range(2000))]), "more than 2000 fil"),
        (archive(files)[:-600], "it is cut off"),
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
    with pytest.raises(lab.ExperimentError, match="something follows its end"):
        read_packed(joined)


def header(name, size, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def with_sum(block):
    """A header whose sum is right again."""
    sums = 256 + sum(block[:148]) + sum(block[156:512])
    return block[:148] + b"%06o\0 " % sums + block[156:]


def sparse():
    """219 bytes, packed, that are 3 GiB when they are read: one piece, at the very end."""
    block = bytearray(header("dataset.csv", 0, tarfile.GNUTYPE_SPARSE))
    block[386:398], block[398:410] = b"%011o\0" % (3 * 2**30), b"%011o\0" % 0
    block[483:495] = b"%011o\0" % (3 * 2**30)
    return with_sum(bytes(block)) + bytes(1024)


def pax_sparse(size=3 * 2**30):
    """The same, as a header of PAX says it."""
    said = b"".join(
        b"%d %s\n" % (len(line) + 3, line)
        for line in (b"GNU.sparse.size=%d" % size, b"GNU.sparse.numblocks=0", b"GNU.sparse.map=")
    )
    behind = said + bytes(-len(said) % 512) + header("dataset.csv", 0) + bytes(1024)
    return header("pax", len(said), tarfile.XHDTYPE) + behind


def pax_value(mib=1):
    value = b"%d comment=%s\n" % (mib * 2**20 + 17, b"x" * mib * 2**20)
    return header("pax", len(value), tarfile.XGLTYPE) + value + bytes(-len(value) % 512 + 1024)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (sparse(), "'dataset.csv' is no plain file (a link, a sparse file"),
        (pax_sparse(), "'pax' is no plain file"),
        (pax_value(), "'pax' is no plain file"),
        (header("dataset.csv", 2**33) + bytes(1024), "says that it is larger than what is there"),
        (header("dataset.csv", -1) + bytes(1024), "says that it is larger than what is there"),
        (header("bundle", 2**20, tarfile.DIRTYPE) + bytes(1024), "cannot be a folder of it"),
        (header("bundle", 0) + bytes(1024), "'bundle' cannot be a file of it"),
        (header("bundle", 0, tarfile.CONTTYPE) + bytes(1024), "is no plain file"),
        (header("x" * 90, 0, b"Z") + bytes(1024), "is no plain file"),
    ],
)
def test_a_member_that_is_larger_than_it_looks_is_refused(raw, sentence):
    with pytest.raises(lab.ExperimentError, match=re.escape(sentence)):
        read_packed(gzip.compress(raw))


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr("flautim_lab.runners.plain_archive.MOST_UNPACKED", 2**20)
    with pytest.raises(lab.ExperimentError, match=re.escape("it holds more than 1 MiB")):
        read_packed(gzip.compress(bytes(2**21)))
    # A name in gzip's own header, and many streams of nothing, cost no time.
    named = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 2**24
    for wrong in (named, gzip.compress(b"") * 100_000):
        with pytest.raises(lab.ExperimentError, match=r"it is cut off|something follows its end"):
            read_packed(wrong)


def test_no_memory_is_a_refusal(monkeypatch):
    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr("flautim_lab.runners.pod_files.read_plain", none_left)
    with pytest.raises(lab.ExperimentError, match="needs more memory than the service has"):
        read_packed(b"")


def test_settings_are_not_read_at_any_size(files, monkeypatch):
    monkeypatch.setattr("flautim_lab.runners.pod_files.MOST_TEXT", 2**10)
    with pytest.raises(lab.ExperimentError, match="settings and source are more than 0 MiB"):
        read_packed(archive(files))


def at_home(files, **changes):
    settings = json.loads(dict(files)["experiment.json"])
    settings["dataset"] |= {"homes": [["ufmg", "iris.csv"]]} | changes
    text = json.dumps(settings).encode()
    return archive([(name, text if name == "experiment.json" else c) for name, c in files])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "/flautim/data/iris.csv"}, "go with a sample in the archive alone"),
        ({"kind": "class", "role": "dataset"}, "go with a sample in the archive alone"),
        ({"homes": [["ufmg", ["x"]]]}, "its homes are no list of pairs"),
        ({"homes": [[7, "iris.csv"]]}, "its homes are no list of pairs"),
        ({"homes": {"ufmg": "iris.csv"}}, "its homes are no list of pairs"),
        ({"homes": ["ab"]}, "its homes are no list of pairs"),
        ({"homes": None}, "its homes are no list of pairs"),
        ({"homes": []}, "homes must say where each institution has its table"),
        ({"homes": [["ufmg", "a.csv"], ["ufmg", "b.csv"]]}, "it names an institution twice"),
        ({"homes": [["ufmg", "../a.csv"]]}, "must be a relative path on its volume"),
    ],
)
def test_rows_that_stay_home_are_named_as_a_pod_takes_them(files, changes, sentence):
    assert read_packed(at_home(files)).sample == dict(files)["dataset.csv"]
    with pytest.raises(lab.ExperimentError, match=re.escape(sentence)):
        read_packed(at_home(files, **changes))
