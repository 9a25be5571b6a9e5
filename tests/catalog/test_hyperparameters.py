"""The file of hyperparameters, in each of its forms."""

import pytest

from flautim_lab.catalog.hyperparameters import read_hyperparameters
from flautim_lab.errors import CatalogError

EXPECTED = {
    "rounds": 5,
    "lr": 0.05,
    "strategy": "FedProx",
    "strategy_args": {"proximal_mu": 0.1},
    "partition": {"kind": "by_label", "alpha": 0.5},
}
FILES = {
    "h.py": '"""Mine."""\nimport os\nrounds: int = 5\nLR = 0.05\nstrategy = "FedProx"\n'
    'strategy_args = {"proximal_mu": 0.1}\npartition = {"kind": "by_label", "alpha": 0.5}\n',
    "h.toml": 'rounds = 5\nlr = 0.05\nstrategy = "FedProx"\n[strategy_args]\nproximal_mu = 0.1\n'
    '[partition]\nkind = "by_label"\nalpha = 0.5\n',
    "h.yaml": "rounds: 5\nlr: 0.05\nstrategy: FedProx\nstrategy_args: {proximal_mu: 0.1}\n"
    "partition: {kind: by_label, alpha: 0.5}\n",
    "h.json": '{"rounds": 5, "learning_rate": 0.05, "strategy": "FedProx", '
    '"strategy_args": {"proximal_mu": 0.1}, "partition": {"kind": "by_label", "alpha": 0.5}}',
}


@pytest.mark.parametrize("file", FILES)
def test_every_form_says_the_same(file):
    assert read_hyperparameters(file, FILES[file]) == EXPECTED


def test_a_partition_may_be_its_name_alone():
    assert read_hyperparameters("h.toml", 'partition = "evenly"')["partition"] == {"kind": "evenly"}


@pytest.mark.parametrize("text", ["", "# nothing"])
def test_an_empty_file_gives_nothing(text):
    assert read_hyperparameters("h.yaml", text) == read_hyperparameters("h.py", text) == {}


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("h.toml", "round = 5", "did you mean 'rounds'"),
        ("h.toml", "rounds = ", "h.toml cannot be read as TOML"),
        ("h.json", "[1]", "names and values"),
        ("h.json", "{", "cannot be read as JSON"),
        ("h.yaml", "a: [", "cannot be read as YAML"),
        ("h.yaml", "x: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        ("h.py", "rounds = open('x')", "line 1: rounds is no plain value"),
        ("h.py", "a, b = 1, 2", "one name a line"),
        ("h.txt", "rounds = 5", "must end in .py, .toml"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(file, text, said):
    with pytest.raises(CatalogError, match=said) as error:
        read_hyperparameters(file, text)
    assert "\n" not in str(error.value)
