import ast
import re
import string
from pathlib import Path

import pandas as pd
import pytest
from babel.messages.pofile import read_po
from torch import nn

import flautim_lab as lab
from flautim_lab.catalog.cnpj import check_cnpj
from flautim_lab.catalog.hyperparameters import read_hyperparameters
from flautim_lab.catalog.sources import classes_in
from flautim_lab.errors import FlautimError
from flautim_lab.experiment import settings
from flautim_lab.experiment.strategies import check_strategy
from flautim_lab.jupyter import panel
from flautim_lab.jupyter.panel.text import LOCALE, Text, language_of_environment, messages
from flautim_lab.names import check_name

SOURCES = sorted(Path(panel.__file__).parent.rglob("*.py"))
VARIABLES = ("FLAUTIM_LAB_LANGUAGE", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


def said():
    """Every message that the panel's code says, with the file and line where it does."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name.split(".")[-1] == "text" or name.endswith("text.count"):
                most = 2 if name.endswith("text.count") else 1
                for argument in node.args[:most]:
                    # text("a" if x else "b") says two.
                    for part in ast.walk(argument):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value, f"{path.name}:{node.lineno}"


def fields(message):
    return {field for _, field, _, _ in string.Formatter().parse(message) if field is not None}


def test_every_message_has_a_translation_with_the_same_fields():
    known = messages("pt_BR")
    missing = []
    for message, where in said():
        found = known.get(message)
        if found is None or not found.string:
            missing.append((message, where))
        else:
            assert fields(found.string) == fields(message), (message, where)
    assert not missing


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "pt_PT.UTF-8"}, "pt_BR"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "pt:de"}, "pt_BR"),
        ({"LANG": "pt_BR.UTF-8", "FLAUTIM_LAB_LANGUAGE": "en"}, "en"),
        ({"LANG": "not a language"}, "en"),
    ],
)
def test_language_of_environment(monkeypatch, environment, language):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language_of_environment() == language
    assert Text().language == language


def test_what_has_no_translation_is_said_in_english():
    assert Text("pt_BR")("no such message {n}", n=3) == "no such message 3"


def test_count():
    text = Text("en")
    assert text.count("{n} project", "{n} projects", 1) == "1 project"
    assert text.count("{n} project", "{n} projects", 0) == "0 projects"


# --- sentences that are raised elsewhere ------------------------------------------------------

ROWS = pd.DataFrame({"x": range(24), "kind": ["low"] * 12 + ["high"] * 12})


class Net(nn.Linear):
    def __init__(self):
        super().__init__(1, 2)


def experiment(**chosen):
    return lab.Experiment(lab.CSVDataset(ROWS, target="kind"), Net, **{"clients": 2, **chosen})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: settings.whole(0, "rounds"), "rounds deve ser no mínimo 1, e não 0"),
        (lambda: settings.whole("x", "rounds"), "rounds deve ser um número inteiro, e não 'x'"),
        (lambda: settings.positive(-1, "lr"), "lr deve ser maior que 0, e não -1"),
        (
            lambda: settings.share(1, "validation"),
            "validation deve ser maior ou igual a 0 e menor que 1, e não 1",
        ),
        (
            lambda: check_strategy("FedAvgg", {}, 2),
            r"não há estratégia com o nome 'FedAvgg'; seria 'FedAvg'\? escolha entre: FedAvg, .*",
        ),
        (
            lambda: check_strategy("FedAdam", {"bta_1": 1}, 2),
            r"não há argumento de FedAdam com o nome 'bta_1'; seria 'beta_1'\? .*",
        ),
        (
            lambda: check_strategy("FedAdam", {"beta_1": 2}, 2),
            "beta_1 de FedAdam deve ser maior ou igual a 0 e menor que 1, e não 2",
        ),
        (
            lambda: check_strategy("Krum", {"num_malicious_nodes": 1.5}, 9),
            "num_malicious_nodes de Krum deve ser um número inteiro maior ou igual a 0, e não 1.5",
        ),
        (lambda: check_strategy("FedAvg", {"x": 2}, 2), "FedAvg não aceita argumentos; retire 'x'"),
        (
            lambda: check_strategy("Krum", {}, 2),
            "Krum precisa de pelo menos 3 clientes por rodada .*",
        ),
        (
            lambda: check_strategy("DifferentialPrivacyServerSideFixedClipping", {}, 2),
            r"\w+ precisa de 'noise_multiplier' \(maior ou igual a 0\)",
        ),
        (lambda: experiment(clients=30), r"não é possível dividir as linhas \(\d+ rows\) .*"),
        (
            lambda: experiment(clients=10, partition=lab.by_label(alpha=0.01)),
            "por rótulo com alpha=0.01, algum cliente ficou com menos de 2 .*",
        ),
        (
            lambda: experiment(partition=lab.by_column("x")),
            "a coluna 'x' tem 24 valores distintos, um por cliente, mas clients=2; .*",
        ),
        (lambda: check_name(" "), r"falta o nome \(experimento\); dê pelo menos uma letra"),
        (lambda: check_name("a\tb"), r"o nome 'a\\tb' \(experimento\) contém .*"),
        (lambda: settings.positive(float("inf"), "lr"), "lr deve ser um número finito, e não inf"),
        (lambda: check_cnpj("12"), "'12' não é um CNPJ: .*"),
        (
            lambda: check_cnpj("17.217.985/0001-05"),
            "os dígitos verificadores do CNPJ .* errados; .*",
        ),
        (lambda: classes_in("x = (", "model", "net.py"), "net.py não é Python: .* na linha 1; .*"),
        (lambda: classes_in("x = 1", "model", "net.py"), "net.py não tem uma classe de modelo; .*"),
        (
            lambda: read_hyperparameters("a.py", "rounds = f()"),
            "a.py, linha 1: rounds não é um valor simples; .*",
        ),
        (
            lambda: lab.CSVDataset("no.csv", target="x"),
            "não há o arquivo 'no.csv' em .*; essa pasta tem .*",
        ),
        (
            lambda: lab.CSVDataset(ROWS, target="kinds"),
            r"não há coluna com o nome 'kinds'; seria 'kind'\? escolha entre: x, kind",
        ),
    ],
)
def test_a_sentence_of_elsewhere_in_portuguese(wrong, said):
    with pytest.raises(FlautimError) as raised:
        wrong()
    assert re.fullmatch(said, Text("pt_BR").sentence(raised.value)), raised.value
    assert Text("en").sentence(raised.value) == str(raised.value)


def test_a_sentence_that_is_not_known_is_said_in_english():
    assert Text("pt_BR").sentence("no such sentence 3") == "no such sentence 3"


def test_the_sentences_are_those_that_are_raised():
    root = Path(lab.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in root.rglob("*.py")]
    # As one text: a sentence may be written on several lines.
    written = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(sources))
    with (LOCALE / "pt_BR" / "sentences.po").open("rb") as file:
        for message in read_po(file):
            if not message.id:
                continue
            assert fields(message.string) <= fields(message.id)
            parts = [part[0] for part in string.Formatter().parse(message.id)]
            assert max(parts, key=len) in written.replace("{{", "{").replace("}}", "}"), message.id
