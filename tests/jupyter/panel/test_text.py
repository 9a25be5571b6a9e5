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
from flautim_lab.catalog.local.base import not_there, text
from flautim_lab.catalog.sources import classes_in
from flautim_lab.errors import DatasetError, FlautimError
from flautim_lab.experiment import settings
from flautim_lab.experiment.strategies import check_strategy
from flautim_lab.jupyter import panel
from flautim_lab.jupyter.panel.text import LOCALE, Text, language_of_environment, messages
from flautim_lab.names import check_name
from flautim_lab.runners.progress import ClientProgress, alarms

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


AT_HOME = "the table of ufmg: the target 'x' holds text, and numbers are wanted"
DAYS = pd.DataFrame({"day": [f"2026-01-{day + 1:02}" for day in range(24)], "kind": ROWS["kind"]})


class Net(nn.Linear):
    def __init__(self):
        super().__init__(1, 2)


class Other(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)


def raised(error):
    raise error


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
        (lambda: experiment(clients=30), r"não é possível dividir as linhas \(\d+ linhas\) .*"),
        (lambda: experiment(clients_per_round=9), "clients_per_round é 9 e há 2 clientes; .* 2"),
        (
            lambda: lab.CSVDataset(DAYS, target="kind"),
            r"a coluna 'day' de .* contém datas \('2026-01-01'\), e .*, ou deixe-a fora com .*",
        ),
        (lambda: lab.CSVDataset(DAYS, target="day"), "o alvo 'day' de .*, ou escolha outro alvo"),
        (
            lambda: lab.Experiment(lab.CSVDataset(ROWS, target="kind"), Other, clients=2),
            r"Other falha em um lote de forma \(8, 1\): mat1 .*; uma linha dos dados .*",
        ),
        (
            lambda: raised(not_there("project a/b")),
            "não há projeto a/b, ou ele não é mostrado a você",
        ),
        (lambda: text("\0", "the note"), r"a observação contém um caractere .*"),
        (
            lambda: raised(DatasetError(AT_HOME)),
            "a tabela de ufmg: o alvo 'x' .*",
        ),
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


def test_what_is_said_of_a_run_in_portuguese():
    lost = "the weight 'w' became NaN or infinite while training; lower lr (now 0.1), or scale the "
    client = ClientProgress(3, "client 3", error=f"{lost}data and the targets", failures=3)
    text = Text("pt_BR")
    (said,) = alarms([client])
    assert text.sentence(said) == (
        "o cliente 3 falhou várias rodadas seguidas (3 rodadas): o peso 'w' virou NaN ou infinito "
        "no treinamento; diminua lr (agora 0.1) ou escale os dados e os alvos"
    )
    waiting = "waiting for client 3; 2 of 4 have answered (for 12 s)"
    assert text.sentence(waiting) == "esperando o cliente 3; 2 de 4 responderam (há 12 s)"
    assert text.client(3, "client 3") == "cliente 3"
    assert text.client(3, "ufmg") == "ufmg"


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
