"""What may be told of clients whose rows stay with their institutions.

Code of a researcher has the rows in its hands: what it raises, prints or names may be made of them.
A worker tells an error in words of ours (:func:`words_of`), and the server takes out of an answer
all but numbers under names that it knows (:class:`Screen`). What the numbers themselves tell, the
weights above all, is not ours to see: ``docs/administration.md`` says so.
"""

from __future__ import annotations

import ast
import builtins
import functools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord
from flwr.common.constant import ErrorCode
from safetensors import SafetensorError
from torch import OutOfMemoryError, Tensor

from flautim_lab import errors
from flautim_lab.errors import BundleError, DivergedError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.loops import TAKEN_NAMES
from flautim_lab.names import count
from flautim_lab.training import weights

__all__ = ["Screen", "how_much", "words_of"]

PRINTED = "printed"  # the record in an answer of what the client printed meanwhile
MOST_MEASURES = 64  # of one answer: each is a number that code of a researcher chooses
MOST_NAME = 64  # characters of the name of a measure
MOST_REASON = 400  # characters of why a client failed
OURS = {"loss", "accuracy", "mae"}  # measures that nobody has to write down
REFUSED = "its answer is not one of this model, and was left out"
LEFT_OUT = (
    "some measures were left out: where rows stay home, each is a number whose name is written in "
    f"the code, such as 'recall' or f'recall_{{number}}', and there are {MOST_MEASURES} at most"
)
_NUMBERS = ("ArrayRecord", "MetricRecord")
_WANTED = {
    MessageType.TRAIN: ["ArrayRecord", "MetricRecord"],
    MessageType.EVALUATE: ["MetricRecord"],
    MessageType.QUERY: ["ArrayRecord"],
}
_SAID = re.compile(r"\[(\d{1,9}) characters?, kept in its worker's own log: its rows stay home\]")

# By the class itself, before any code of a researcher is there: a name could be made up of a row.
_NAMES: Mapping[type, str] = {
    kind: kind.__name__
    for kind in (*vars(builtins).values(), *vars(errors).values(), OutOfMemoryError)
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
_FIXED: Mapping[str, str] = {
    DivergedError.__name__: "its loss or weights became NaN or infinite; lower lr, or scale the "
    "data and the targets"
}


def words_of(error: BaseException) -> str:
    """Return what is told of an error: its kind, in words that no code of a researcher chooses."""
    name = next(_NAMES[kind] for kind in type(error).__mro__ if kind in _NAMES)
    known = _FIXED.get(name)
    return known or (
        f"{name}; what it says is in its worker's own log, since its rows stay home: try the same "
        "on the sample, with on='local'"
    )


def how_much(text: str) -> str:
    """Return how much was printed, in place of what."""
    return f"[{count(len(text), 'character')}, kept in its worker's own log: its rows stay home]"


class Screen:
    """Takes out of clients' answers what is no number under a name that the server knows.

    Parameters
    ----------
    experiment : Experiment
        A measure's name must be written in its source, which a data owner reads.
    """

    def __init__(self, experiment: Experiment) -> None:
        dataset = experiment.dataset
        table = isinstance(dataset, CSVDataset)
        self._features = dataset.features.shape[1] if table else 0
        self._names, self._patterns = _written(experiment)
        # Settings that count as code: by which measure a strategy weighs, for one.
        self._names |= {one for one in experiment.strategy_args.values() if isinstance(one, str)}
        #: Whether measures were left out.
        self.left_out = False

    def reason(self, text: str) -> str:
        """Return why a client failed, as far as it is told: one line, and no long one."""
        line = (text.splitlines() or [""])[0][:MOST_REASON]
        return "".join(letter if letter.isprintable() else " " for letter in line)

    def admit(
        self, answer: Message, question: Message, sent: ArrayRecord, buffers: bytes
    ) -> Message:
        """Return an answer, screened in place; an error where it is none.

        Parameters
        ----------
        answer, question : Message
        sent : ArrayRecord
            The weights that the client was sent; it must send some of these names and shapes.
        buffers : bytes
            The buffers that it was sent, likewise.
        """
        content = answer.content
        asked = question.metadata.message_type.partition(".")[0]
        alike = self._are_sums if asked == MessageType.QUERY else functools.partial(_alike, sent)
        kinds = [type(record).__name__ for record in content.values()]
        try:
            _refuse_if(sorted(kind for kind in kinds if kind in _NUMBERS) != _WANTED[asked])
            for key, record in list(content.items()):
                if isinstance(record, MetricRecord):
                    self._measures(record)
                elif isinstance(record, ArrayRecord):
                    _refuse_if(not alike(record))
                elif key == "buffers" and buffers:
                    _refuse_if(set(record) != {"buffers"})
                    _refuse_if(_kinds(record["buffers"]) != _kinds(buffers))  # type: ignore[arg-type]
                elif key == PRINTED:
                    said = _SAID.fullmatch(str(record.get("text")))
                    del content[key]
                    if said is not None:
                        content[PRINTED] = ConfigRecord({"text": said[0]})
                else:
                    del content[key]
        except (ValueError, TypeError, KeyError, AttributeError, SafetensorError):
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, REFUSED), reply_to=question)
        return answer

    def _measures(self, record: MetricRecord) -> None:
        kept = 0
        _refuse_if(TAKEN_NAMES[0] not in record)
        for name, value in list(record.items()):
            if name in TAKEN_NAMES:  # rows, and a yes or no
                number = float(value)  # type: ignore[arg-type]
                _refuse_if(not 0 <= number < 2**53 or number != math.floor(number))
                continue
            plain = name.removeprefix("train_")
            known = plain in self._names or any(each.fullmatch(plain) for each in self._patterns)
            if isinstance(value, list) or not known or kept >= MOST_MEASURES:
                del record[name]
                self.left_out = True
            else:
                kept += 1

    def _are_sums(self, record: ArrayRecord) -> bool:
        shapes = {name: tuple(array.shape) for name, array in record.items()}
        types = {array.dtype for array in record.values()}
        wanted = dict.fromkeys(("count", "total", "squares"), (self._features,))
        return shapes == wanted and types == {"float64"}


def _refuse_if(wrong: bool) -> None:
    if wrong:
        raise ValueError


def _alike(sent: ArrayRecord, record: ArrayRecord) -> bool:
    """Whether these are the weights of a model, as numbers of whatever width."""
    shapes = {name: tuple(array.shape) for name, array in sent.items()}
    return {name: tuple(array.shape) for name, array in record.items()} == shapes and all(
        np.dtype(array.dtype).kind in "fiubc" for array in record.values()
    )


def _kinds(buffers: bytes) -> dict[str, tuple[tuple[int, ...], str]]:
    def kind(tensor: Tensor) -> tuple[tuple[int, ...], str]:
        return tuple(tensor.shape), str(tensor.dtype)

    return {name: kind(tensor) for name, tensor in weights.buffers_from_bytes(buffers).items()}


# --- names that are written in the code -----------------------------------------------------------


def _written(experiment: Experiment) -> tuple[set[str], list[re.Pattern[str]]]:
    """Return the names that an experiment's source holds, and patterns of its f-strings.

    In a pattern stands a whole number of three digits at most, or a class of the sample.
    """
    names, patterns = set(OURS), []
    classes = getattr(experiment.dataset, "classes", None) or ()
    hole = "|".join([r"\d{1,3}", *map(re.escape, classes)])
    for node in _nodes(experiment):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg:  # dict(recall=...)
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):  # {f.__name__: f(...)}
            names.add(node.name)
        elif isinstance(node, ast.JoinedStr):
            parts = [
                re.escape(str(part.value)) if isinstance(part, ast.Constant) else f"(?:{hole})"
                for part in node.values
            ]
            patterns.append(re.compile("".join(parts)))
    return {name for name in names if len(name) <= MOST_NAME}, patterns


def _nodes(experiment: Experiment) -> Iterator[ast.AST]:
    try:
        files = experiment.bundle().files
    except BundleError:  # made of live objects, which run here alone
        return
    for path, text in files.items():
        if path.endswith(".py"):
            yield from ast.walk(ast.parse(text))
