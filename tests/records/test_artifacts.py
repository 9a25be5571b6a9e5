from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flautim_lab.errors import RecordsError
from flautim_lab.records.artifacts import load_model, metrics_csv, save_model, write_atomic

KINDS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def bits(tensor: torch.Tensor) -> bytes:
    own = tensor.detach().clone(memory_format=torch.contiguous_format)
    return own.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
        for a, b in zip(state.values(), other.values(), strict=True)
    )


# --- write_atomic ---------------------------------------------------------------------------


def test_writes_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "ação.bin"
    assert write_atomic(path, b"one") == path
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_syncs_the_file_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watched_replace(source: str, target: Path) -> None:
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomic(tmp_path / "file", b"content")
    assert done == ["file", "name", "folder"]


def test_a_folder_in_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(RecordsError) as refused:
        write_atomic(path, b"content")
    assert str(refused.value) == (
        f"the file {path} cannot be written: Is a directory; "
        "check the disk, or set FLAUTIM_LAB_HOME to a folder"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomic(tmp_path / "file", b"old")

    def interrupt(_handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# The file may grow to 4 kB: the system's own way to refuse a part of a write.
REFUSED_HALF_WAY = """
import resource, sys
from pathlib import Path
from flautim_lab.errors import RecordsError
from flautim_lab.records.artifacts import write_atomic
path = Path(sys.argv[1])
write_atomic(path, b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomic(path, bytes(100_000))
except RecordsError as error:
    print(error)
"""


def test_half_a_file_is_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    said = subprocess.run(
        [sys.executable, "-c", REFUSED_HALF_WAY, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == (
        f"the file {path} cannot be written: File too large; "
        "check the disk, or set FLAUTIM_LAB_HOME to a folder\n"
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- the model ------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.last = nn.Linear(3, 3)
        self.last.weight = self.first.weight


def test_a_model_with_tied_weights_and_buffers(tmp_path: Path) -> None:
    model = Tied()
    path = save_model(tmp_path, model.state_dict())
    assert path == tmp_path / "model.safetensors"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    state = load_model(tmp_path)
    assert same(state, dict(model.state_dict()))
    assert state["norm.num_batches_tracked"].shape == ()
    other = Tied()
    other.load_state_dict(state)
    assert torch.equal(other.last.weight, model.first.weight)


def test_every_kind_of_number_and_shape_bit_for_bit(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=torch.Generator())
    state = {
        f"{kind}": (noise % 2).bool() if kind is torch.bool else noise.view(kind) for kind in KINDS
    }
    base = torch.arange(12.0)
    state |= {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), -0.0, float("inf"), -float("inf")]),
        "the whole": base,
        "a part of it": base[3:7],
        "transposed": base.reshape(3, 4).T,
        "every second": base[::2],
        "expanded": base[:1].expand(5),
        "parameter": nn.Parameter(torch.ones(2)),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "negated lazily": torch.tensor([1 + 2j]).conj().imag,
        "名前.ação": torch.ones(1),
    }
    save_model(tmp_path, state)
    loaded = load_model(tmp_path)
    assert same(loaded, state)
    loaded["the whole"].zero_()
    assert same(load_model(tmp_path), state)
    assert float(base.sum()) == 66.0


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=5).filter(
        lambda names: "__metadata__" not in names
    ),
    kinds=st.lists(st.sampled_from(KINDS), min_size=5, max_size=5),
)
def test_keeps_names_and_their_order(
    names: list[str], kinds: list[torch.dtype], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("model")
    state = {name: torch.ones(2, dtype=kind) for name, kind in zip(names, kinds, strict=False)}
    save_model(folder, state)
    assert same(load_model(folder), state)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            {"steps": 3},
            "the entry 'steps' of the model's state_dict is no tensor but of type int; "
            "register it as a buffer, or leave it out of the state_dict",
        ),
        (
            {"__metadata__": torch.ones(1)},
            "an entry of a state_dict cannot be named '__metadata__'; rename it",
        ),
        (
            {"w": torch.ones(1, dtype=torch.complex128)},
            "the model cannot be kept as safetensors (torch.complex128); "
            "use dense tensors of floating point, integer or boolean numbers",
        ),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(
    state: dict[str, torch.Tensor], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordsError) as refused:
        save_model(tmp_path, state)
    assert str(refused.value) == sentence
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_tensor_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordsError) as refused:
        save_model(tmp_path, {"w": torch.eye(3).to_sparse()})
    assert str(refused.value).startswith("the model cannot be kept as safetensors (")
    assert "\n" not in str(refused.value)


def test_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordsError) as refused:
        load_model(tmp_path)
    assert str(refused.value) == (
        f"there is no model in {tmp_path}; it is written when a run has trained one"
    )


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\xff" * 40])
def test_a_damaged_model_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "model.safetensors", content)
    with pytest.raises(RecordsError) as refused:
        load_model(tmp_path)
    assert str(refused.value).startswith(f"the model {path} is damaged (")
    assert str(refused.value).endswith("); train it again")


# --- the metrics ----------------------------------------------------------------------------


def test_metrics_as_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "round": [1, 1, 2],
            "client": pd.array([None, 0, 0], dtype="Int64"),
            "split": ["train", "train", "validation"],
            "metric": ["loss", "erro, quadrático", "loss"],
            "value": [0.1 + 0.2, float("nan"), float("inf")],
        }
    )
    path = metrics_csv(tmp_path, frame)
    assert path == tmp_path / "metrics.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text(encoding="utf-8") == (
        "round,client,split,metric,value\n"
        "1,,train,loss,0.30000000000000004\n"
        '1,0,train,"erro, quadrático",NaN\n'
        "2,0,validation,loss,inf\n"
    )
    again = pd.read_csv(path, dtype={"client": "Int64"})
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)


def test_a_metric_that_is_named_like_a_formula_stays_text_in_a_spreadsheet(tmp_path: Path) -> None:
    line = {"round": [1], "client": [0], "split": ["train"], "metric": ["=1+1"], "value": [-0.5]}
    written = metrics_csv(tmp_path, pd.DataFrame(line)).read_text()
    assert written.splitlines()[1] == "1,0,train,'=1+1,-0.5"


def test_no_metrics_as_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({name: [] for name in ("round", "client", "split", "metric", "value")})
    assert metrics_csv(tmp_path, frame).read_text() == "round,client,split,metric,value\n"
