"""Every error of ours, as a tree. Each message is one sentence a researcher understands.

::

    FlautimError
    ├── ExperimentError        a setting is wrong: names the value, the choices, the next step
    │   ├── DatasetError       the data cannot be used as they are
    │   ├── ModelError         the model does not fit the data
    │   └── BundleError        the source of a class cannot be kept or found again
    ├── TrainingError          the run itself failed (names the round and the client)
    │   └── DivergedError      what a client trains is no longer finite
    ├── ClusterError           the cluster cannot be reached, or refuses (names what, and who may)
    ├── RecordsError           the records cannot be read or written (disk full, not a database)
    │   └── RunNotFoundError   no run of that name
    ├── CatalogError           the catalog cannot keep a value, or cannot be reached
    │   ├── NotFoundError      there is no such thing, or it is not to be seen
    │   ├── NotAllowedError    the role of who asks does not allow it (names who may)
    │   ├── InUseError         a run used it; archiving is offered
    │   └── ConflictError      the key is taken already
    ├── BackupError            a backup cannot be written, read or restored
    ├── NotebookError          a notebook cannot be executed as asked
    │   └── ExecutionError     it was executed, and failed (has the reason, and the runs it made)
    └── UsageError             a magic or a command was called with words it does not know
"""

from __future__ import annotations


class FlautimError(Exception):
    """Base of every error that Flautim Lab raises on purpose.

    Attributes
    ----------
    lasting : bool
        Whether it is of no use to try again until somebody has changed something.
    """

    lasting = False


class ExperimentError(FlautimError, ValueError):
    """A setting of an experiment is wrong."""


class DatasetError(ExperimentError):
    """The data cannot be used as they are."""


class ModelError(ExperimentError):
    """The model does not fit the data, or is no model."""


class BundleError(ExperimentError):
    """The source of a class cannot be kept, or cannot be found again."""


class TrainingError(FlautimError, RuntimeError):
    """A run failed while it was training."""


class DivergedError(TrainingError):
    """The loss or a weight became NaN or infinite."""


class ClusterError(FlautimError):
    """The Kubernetes cluster cannot be reached, or refuses what was asked of it."""


class RecordsError(FlautimError):
    """The records cannot be read or written."""


class RunNotFoundError(RecordsError, KeyError):
    """No run has that id."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, quotes and all.
        return str(self.args[0]) if self.args else ""


class CatalogError(FlautimError):
    """The catalog cannot keep what it is given, or cannot be reached."""


class NotFoundError(CatalogError):
    """There is no such thing in the catalog, or it is not to be seen by who asks."""


class NotAllowedError(CatalogError):
    """Who asks may not do that; the sentence names who may."""


class InUseError(CatalogError):
    """A run used it, so it stays; archiving is offered."""


class ConflictError(CatalogError):
    """There is a thing with that key already."""


class CatalogUnavailableError(CatalogError):
    """The catalog cannot be read or written now: its database, or the hub's service, is away."""


class BackupError(FlautimError):
    """A backup cannot be written, read or restored."""


class NotebookError(FlautimError):
    """A notebook cannot be executed as asked, or failed."""


class ExecutionError(NotebookError):
    """A notebook was executed, and failed.

    Attributes
    ----------
    reason : str
        Why, without where its outputs are.
    died : bool
        Whether the kernel died, rather than a cell failed.
    runs : tuple of str
        Ids of the runs that it had made by then, oldest first.
    """

    def __init__(
        self, message: str, reason: str, *, died: bool = False, runs: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.died = died
        self.runs = runs


class UsageError(FlautimError):
    """A magic or a command was called with words it does not know."""
