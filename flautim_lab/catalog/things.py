"""What the catalog holds, as it is read: frozen, the same on a local database and over REST.

References are text. An institution and a thing within it are named by keys, which are slugs::

    ufmg                   an institution
    ufmg/vision            a project of it
    ufmg/telemetry@3       the third version of a dataset of it
    ufmg/vision/net@2      the second version of a model of the project
    ufmg/vision/first@1    the first version of an experiment of the project

Without ``@version`` a reference means the newest one. Times are seconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

from flautim_lab.experiment.code import Code

T = TypeVar("T")
#: Which rows of a dataset are meant: made up to its schema, or its own.
MADE_UP, REAL = "made up", "real"


class Role(StrEnum):
    """What somebody is at an institution; one may be several things at once."""

    INSTITUTION_ADMIN = "institution_admin"
    RESEARCHER = "researcher"
    DATA_OWNER = "data_owner"


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of many.

    Attributes
    ----------
    items : tuple
    total : int
        Of all pages.
    page, per_page : int
        Which page this is, from 1 on, and how many things a page holds.
    """

    items: tuple[T, ...]
    total: int
    page: int = 1
    per_page: int = 20

    @property
    def pages(self) -> int:
        """How many pages there are; one at least."""
        return max(1, -(-self.total // self.per_page))


@dataclass(frozen=True)
class Me:
    """Who asks, and what they are.

    Attributes
    ----------
    user : str
    platform_admin : bool
        Makes institutions and gives roles; sees no data.
    roles : mapping of str to frozenset of Role
        By the key of the institution.
    allowed : mapping of str to frozenset of str
        What they may do (names of :class:`flautim_lab.catalog.authorization.Action`), by the key of
        the institution, ``""`` for what belongs to none: faces hide what would be refused.
    """

    user: str
    platform_admin: bool
    roles: Mapping[str, frozenset[Role]]
    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Institution:
    """An institution.

    Attributes
    ----------
    key, name : str
    cnpj : str
        Its fourteen characters without punctuation, or ``""`` where it has none.
    logo : bytes
        A PNG, JPEG or WebP picture, or nothing.
    active : bool
    projects, datasets, users : int
        How many it has (archived ones not counted).
    """

    # How Pydantic writes the logo (catalog/wire.py).
    __pydantic_config__: ClassVar[dict[str, str]] = {
        "ser_json_bytes": "base64",
        "val_json_bytes": "base64",
    }

    key: str
    name: str
    cnpj: str = ""
    logo: bytes = b""
    active: bool = True
    created: float = 0.0
    changed: float = 0.0
    projects: int = 0
    datasets: int = 0
    users: int = 0


@dataclass(frozen=True)
class Person:
    """Somebody at an institution.

    Attributes
    ----------
    from_hub : bool
        Whether the hub's list of institutions names them there: who runs the hub takes them off.
    """

    user: str
    institution: str
    roles: frozenset[Role]
    from_hub: bool = False


@dataclass(frozen=True)
class Project:
    """A project of an institution, with how much it holds (archived things not counted).

    Attributes
    ----------
    changed : float
        When it, or anything in it, changed last.
    datasets : int
        Of its institution that it uses, and granted ones.
    """

    ref: str
    institution: str
    name: str
    description: str = ""
    archived: bool = False
    created: float = 0.0
    changed: float = 0.0
    models: int = 0
    datasets: int = 0
    experiments: int = 0
    runs: int = 0


@dataclass(frozen=True)
class Column:
    """A column of a dataset, as far as somebody may know who may not see its rows.

    Attributes
    ----------
    name : str
    kind : {"number", "integer", "boolean", "text"}
    values : tuple of str
        The distinct values of a text column that is a category; empty for free text.
    low, high : float or None
        The range of a number.
    missing : bool
        Whether some rows have no value.
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    missing: bool = False


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a dataset: its schema and where its rows live, never its rows.

    Attributes
    ----------
    ref : str
        With its version, such as ``ufmg/telemetry@3``.
    number : int
    columns : tuple of Column
    target : str
        The column to learn.
    rows : int
    sha256 : str
        Of the file's bytes; ``""`` where the file was not read.
    path : str
        Where the rows live: within the institution's volume, or a file of this machine.
    source, class_name : str
        The Python source of its Dataset class and the class's name, where it has one of its own.
    used : bool
        Whether a run was made with it.
    """

    ref: str
    number: int
    columns: tuple[Column, ...]
    target: str
    rows: int
    sha256: str
    path: str
    source: str = ""
    class_name: str = ""
    created: float = 0.0
    created_by: str = ""
    used: bool = False


@dataclass(frozen=True)
class Dataset:
    """A dataset of an institution, with its newest version.

    Attributes
    ----------
    published : bool
        Whether people of other institutions see its schema and size, and may ask for it.
    """

    ref: str
    institution: str
    name: str
    description: str
    archived: bool
    latest: DatasetVersion
    published: bool = False


@dataclass(frozen=True)
class Grant:
    """That a project may use a dataset.

    Attributes
    ----------
    id : int
    dataset, project : str
        References, without a version: all versions are meant.
    given_by : str
    given : float
    until : float or None
        When it ends by itself.
    ended : float or None
        When somebody ended it.
    code : str
        The hash of the one code that may (:class:`~flautim_lab.experiment.code.Code`); ``""`` where
        any code of the project may.
    """

    id: int
    dataset: str
    project: str
    given_by: str
    given: float
    until: float | None = None
    ended: float | None = None
    code: str = ""


class Answer(StrEnum):
    """What became of a request for a dataset."""

    WAITING = "waiting"
    THIS_CODE = "this code"
    ANY_CODE = "any code"  # of the project
    NO = "no"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class GrantRequest:
    """That a project asks for a dataset, with the code that is to read it.

    What was asked for never changes: what its owner reads is what may run.

    Attributes
    ----------
    id : int
    dataset, project : str
        References, without a version.
    experiment : str
        The saved experiment that it is for, with its version; ``""`` for one of a notebook.
    code_hash : str
    code : Code or None
        Left out in lists.
    settings : mapping
        All of them, for reading; left out in lists.
    note : str
        To the data owner.
    asked_by : str
    asked : float
    answer : Answer
    answered_by : str
    answered : float or None
    reason : str
        Of a no.
    before : Code or None
        The code that was said yes to last, for this dataset and project.
    before_settings : mapping
        Of that.
    """

    id: int
    dataset: str
    project: str
    experiment: str
    code_hash: str
    note: str
    asked_by: str
    asked: float
    code: Code | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    answer: Answer = Answer.WAITING
    answered_by: str = ""
    answered: float | None = None
    reason: str = ""
    before: Code | None = None
    before_settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunUse:
    """That a run reads a dataset, as its data owner sees it.

    Attributes
    ----------
    run_id : str
    dataset : str
        With its version.
    project : str
    code : str
        The hash of the code that it runs.
    started_by : str
    started : float
    ended : float or None
        None as long as nothing is known of its end.
    stop_asked : float or None
        When its end was asked for, and by whom.
    stop_asked_by : str
    """

    run_id: str
    dataset: str
    project: str
    code: str
    started_by: str
    started: float
    ended: float | None = None
    stop_asked: float | None = None
    stop_asked_by: str = ""


@dataclass(frozen=True)
class AuditEntry:
    """That somebody did something to, or with, what is an institution's.

    Attributes
    ----------
    time : float
    user : str
    action : str
        In words, such as ``"ran"``.
    about : str
        A reference, or the id of a run.
    details : mapping
    """

    time: float
    user: str
    action: str
    about: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model.

    Attributes
    ----------
    ref : str
        With its version.
    source, class_name : str
        The file's text, and the class in it that is the model.
    """

    ref: str
    number: int
    name: str
    source: str
    class_name: str
    archived: bool = False
    created: float = 0.0
    created_by: str = ""
    used: bool = False


@dataclass(frozen=True)
class ExperimentVersion:
    """One version of an experiment's definition.

    Attributes
    ----------
    ref : str
        With its version.
    name, details : str
    model, dataset : str
        References with versions.
    settings : mapping
        What ``lab.Experiment`` is given beside dataset and model, and ``on``, as JSON holds it.
    source : str
        The file of hyperparameters as it was uploaded, or ``""``.
    more_datasets : tuple of str
        Those of further institutions, with versions: each trains on its own rows.
    """

    ref: str
    number: int
    name: str
    details: str
    model: str
    dataset: str
    settings: Mapping[str, Any]
    source: str = ""
    archived: bool = False
    created: float = 0.0
    created_by: str = ""
    used: bool = False
    more_datasets: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """All its datasets, the first one first."""
        return (self.dataset, *self.more_datasets)


@dataclass(frozen=True)
class RunLink:
    """That a run was made with exact versions; what happened in it is in the records.

    Attributes
    ----------
    run_id : str
    experiment, model, dataset : str
        References with versions.
    more_datasets : tuple of str
    stop_asked_by : str
        The data owner who asked for its end, or ``""``.
    """

    run_id: str
    project: str
    experiment: str
    model: str
    dataset: str
    started_by: str
    created: float
    more_datasets: tuple[str, ...] = ()
    stop_asked_by: str = ""
