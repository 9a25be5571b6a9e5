"""What is found in uploaded Python without running it."""

import sys

import pytest

from flautim_lab.catalog.sources import class_named, classes_in
from flautim_lab.errors import CatalogError

MODELS = """
import torch
from torch import nn
raise SystemExit("this was run")

class Block(nn.Module): ...
class Old(torch.nn.Module): ...
class Net(Block): ...
class Helper: ...
"""


def test_finds_the_models_that_are_in_a_file_without_running_it():
    classes = classes_in(MODELS, "model", "net.py")
    assert classes.names == ("Block", "Old", "Net")
    assert classes.preferred == "Net"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class A(Dataset[tuple[int, int]]): ...", "A"),
        ("class A(lab.CSVDataset): ...\nclass B(A): ...", "B"),
        ("class A(torch.utils.data.Dataset): ...\nx = 1", "A"),
    ],
)
def test_finds_datasets(source, name):
    assert class_named(source, "dataset", "data.py") == name


def test_another_class_can_be_chosen():
    assert class_named(MODELS, "model", "net.py", "Old") == "Old"
    with pytest.raises(CatalogError, match="did you mean 'Block'"):
        class_named(MODELS, "model", "net.py", "Blok")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Net(nn.Module:\n  pass", r"net.py is no Python: .* in line 1"),
        ("x = 1", "has no class of a model; write one, such as class Net"),
        ("class Helper: ...", r"has no class of a model \(it has Helper\)"),
        ("\0", "net.py"),
        ("(" * 10_000, "net.py"),
    ],
)
def test_what_is_no_model_is_one_sentence(source, said):
    with pytest.raises(CatalogError, match=said):
        classes_in(source, "model", "net.py")
    assert "net" not in sys.modules
