"""The code that a data's owner reads: all that counts is in it, and it is shown as it is."""

import json

import pytest

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import FREE, Code, check_readable, guards_in
from flautim_lab.experiment.experiment import Experiment
from tests.federations import Net, iris


def of(files, **roles):
    return Code.of_bundle(Bundle(files, roles or {"model": "a.py:Net"}), {})


def test_settings_that_are_left_out_are_those_of_an_experiment():
    whole = guards_in(json.loads(Experiment(iris(), Net, clients=2).to_json()))
    silent = guards_in({})
    without_default = {"clients": 2, "task": "classification", "dataset": whole["dataset"]}
    assert whole == silent | without_default
    assert not {*FREE, "model", "format"} & set(whole)


def test_the_same_code_has_the_same_hash():
    silent = of({"a.py": ""}).hash
    bundle = Bundle({"a.py": ""}, {"model": "a.py:Net"})
    for settings, same in [
        (dict.fromkeys(FREE, 3), True),
        ({"seed": 0, "lr": 0.01, "strategy": "FedAvg"}, True),
        ({"round_timeout_seconds": None}, True),
        ({"seed": 1}, False),
        ({"lr": 1}, False),
        ({"class": {"role": "experiment", "name": "Mine"}}, False),
        ({"anything": 0}, False),
    ]:
        assert (Code.of_bundle(bundle, settings).hash == silent) is same, settings
    one, whole = (Code.of_bundle(bundle, {"lr": lr}).hash for lr in (1, 1.0))
    assert one == whole


def test_it_is_printed_whole():
    told = str(of({"a.py": "x = 1\n", "b.py": "y = 2\n"}, model="a.py:Net", strategy="b.py:f"))
    for line in ("model: a.py:Net", "strategy: b.py:f", "validation = 0.2", 'optimizer = "SGD"'):
        assert line in told.splitlines()
    assert "--- a.py\nx = 1\n\n--- b.py\ny = 2\n" in told


@pytest.mark.parametrize(
    ("files", "roles", "sentence"),
    [
        ({"a.py": ""}, {"model": "os:system"}, "the model is os:system, whose source is not amo"),
        ({"a.py": ""}, {"model": "torchvision.models:resnet18"}, "use a class of torch.nn"),
        ({}, {"model": "torch.nn:modules.torch.hub.load"}, "use a class of torch.nn"),
        ({}, {"model": "torch.nnx:Linear"}, "use a class of torch.nn"),
        ({"a.py": ""}, {"model": "a.py:Net", "strategy": "pickle:loads"}, "strategy is pickle:lo"),
        ({"a.py": ""}, {"strategy": "a.py:f"}, "the code has no model"),
        ({"a.py": "x = 1\0"}, {}, r"line 1 of a.py has the character U\+0000"),
        ({"a.py": "x = 1\n# \ud800"}, {}, r"line 2 of a.py has the character U\+D800"),
        ({"a.py": "\n\n# \u202e"}, {}, r"line 3 .* U\+202E, which is not shown as Python reads"),
        ({"a.py": "# fine\rimport os"}, {}, r"U\+000D"),
        ({"a.py": "# fine\u2028"}, {}, r"U\+2028"),
        ({"a.py": "# \x1b[1A"}, {}, r"U\+001B"),
        ({"a.py": "# fine\f clip(1)"}, {}, r"U\+000C"),
        ({"a.py": "", "\u202e.py": ""}, {}, r"line 1 of the name '\\u202e.py' has"),
    ],
)
def test_code_that_its_reader_would_not_see_as_it_is(files, roles, sentence):
    with pytest.raises(BundleError, match=sentence):
        check_readable(of(files, **roles))


def test_what_may_be_read():
    check_readable(of({"a.py": "# Ação 😀\r\n\tx = '\\u202e'\n"}))
    check_readable(of({}, model="torch.nn:Linear"))
    check_readable(of({}, model="torch.nn.modules.linear:Linear"))
