"""The magics: they parse and delegate. ``%lab_run?`` shows help.

``%%dataset``, ``%%model`` and ``%%experiment`` define; ``%lab_run``, ``%lab_plot``, ``%lab_runs``
and ``%lab_logs`` run and look; ``%%chaos`` strikes; ``%lab_panel`` shows the panel.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from flautim_lab.errors import UsageError
from flautim_lab.jupyter import register
from flautim_lab.jupyter.cells import define, kind_of
from flautim_lab.jupyter.chaos_cell import read_lines
from flautim_lab.jupyter.words import magic, parse, whole_number, word
from flautim_lab.names import unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flautim_lab.experiment.experiment import Experiment
    from flautim_lab.jupyter.panel.shell import Panel
    from flautim_lab.runners.launch import RunList
    from flautim_lab.runners.run import Run

RUN_HELP = "a variable that holds a run, the id of a run or its beginning, or: last"


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext flautim_lab``: the magics, live views of runs, and errors as one sentence."""
    register(ipython)
    ipython.register_magics(FlautimMagics)


@magics_class
class FlautimMagics(Magics):
    """The magics of Flautim Lab."""

    @magic(
        cell_magic,
        word("name", metavar="NAME", help="what to call the dataset in the notebook"),
        name="%dataset",
    )
    def dataset(self, line: str, cell: str) -> None:
        """Define a dataset: run the cell, keep its whole source, call its dataset NAME.

        The cell makes a ``lab.CSVDataset``, or a torch ``Dataset`` or a class of one.
        """
        self._define("dataset", line, cell)

    @magic(
        cell_magic,
        word("name", metavar="NAME", help="what to call the model's class in the notebook"),
        name="%model",
    )
    def model(self, line: str, cell: str) -> None:
        """Define a model: run the cell, keep its whole source, call its class NAME.

        The cell defines a class of ``torch.nn.Module``.
        """
        self._define("model", line, cell)

    @magic(
        cell_magic,
        word("name", metavar="NAME", help="what to call the experiment in the notebook"),
        name="%experiment",
    )
    def experiment(self, line: str, cell: str) -> None:
        """Define an experiment: run the cell, keep its whole source, call its experiment NAME.

        The cell makes a ``lab.Experiment(dataset, Model, ...)``; it may use the names of datasets
        and models that other cells defined.
        """
        self._define("experiment", line, cell)

    @magic(
        line_magic,
        word("name", metavar="NAME", help="the experiment: a variable of this notebook"),
        word("--on", metavar="RUNNER", default="local", help="where it runs (default: local)"),
        word("--centralized", action="store_true", help="train one model on all rows instead"),
        word("--wait", action="store_true", help="wait until it has ended"),
    )
    def lab_run(self, line: str) -> Run:
        """Run an experiment; returns the run at once, and shows it live."""
        from flautim_lab.runners.launch import run

        asked = parse(self.lab_run, line)
        started = run(self._experiment(asked.name), on=asked.on, centralized=asked.centralized)
        return started.wait() if asked.wait else started

    @magic(
        line_magic,
        word("runs", metavar="RUN", nargs="*", help=f"{RUN_HELP} (default: last)"),
        word("--metric", metavar="METRIC", default="loss", help="what to plot (default: loss)"),
    )
    def lab_plot(self, line: str) -> Figure:
        """Plot a metric over the rounds, of one run or of several compared."""
        asked = parse(self.lab_plot, line)
        first, *others = [self._run(name) for name in asked.runs or ["last"]]
        return first.plot(asked.metric, compare=others)

    @magic(
        line_magic,
        word(
            "--limit",
            metavar="N",
            type=whole_number,
            default=20,
            help="at most N runs (default: 20)",
        ),
    )
    def lab_runs(self, line: str) -> RunList:
        """List the newest runs, those of other kernels too."""
        from flautim_lab.runners.launch import runs

        return runs(limit=parse(self.lab_runs, line).limit)

    @magic(
        line_magic,
        word("run", metavar="RUN", nargs="?", default="last", help=f"{RUN_HELP} (default: last)"),
        word("--client", metavar="N", type=whole_number, help="only what concerns client N"),
        word("--last", metavar="N", type=whole_number, help="only the newest N entries"),
    )
    def lab_logs(self, line: str) -> None:
        """Print the log of a run, tracebacks of failed clients included."""
        asked = parse(self.lab_logs, line)
        text = self._run(asked.run).logs(client=asked.client, last=asked.last)
        sys.stdout.write(f"{text}\n" if text else "")

    @magic(line_magic)
    def lab_panel(self, line: str) -> Panel:
        """Show the panel: institutions, projects, experiments and runs as forms.

        It lands where it was left, also after a restart of the kernel.
        """
        from flautim_lab.jupyter.panel.shell import panel

        parse(self.lab_panel, line)
        return panel()

    @magic(
        cell_magic,
        word("name", metavar="NAME", help="a run on processes, or an experiment: then it is run"),
        word("--run", metavar="NAME", help="what to call the run of an experiment"),
        name="%chaos",
    )
    def chaos(self, line: str, cell: str) -> Run | None:
        """Strike a run on processes, to see it go on: one fault a line of the cell.

        ``kill server``, ``kill client=3 round=4``, ``pause client-0 seconds=5``, ``partition
        client=1 seconds=5 round=2 during=training``: the words of ``run.chaos``. Without a round
        it happens now. Where NAME is an experiment, a run of it on processes is started with these
        faults planned before its first round, and is returned.
        """
        from flautim_lab.experiment.experiment import Experiment
        from flautim_lab.runners.launch import run

        asked = parse(self.chaos, line)
        faults = read_lines(cell)
        if isinstance(self._names.get(asked.name), Experiment):

            def strike(chaos: Any) -> None:
                for fault in faults:
                    sys.stdout.write(f"{fault.on(chaos)}\n")

            started = run(self._experiment(asked.name), on="processes", chaos=strike)
            if asked.run:
                self._names[asked.run] = started
            return started
        struck = self._run(asked.name).chaos
        for fault in faults:
            sys.stdout.write(f"{fault.on(struck)}\n")
        return None

    @property
    def _names(self) -> dict[str, Any]:
        """The notebook's variables."""
        return {} if self.shell is None else self.shell.user_ns

    def _define(self, what: str, line: str, cell: str) -> None:
        asked = parse(getattr(self, what), line)
        define(self.shell, kind_of(what), asked.name, cell)

    def _experiment(self, name: str) -> Experiment:
        """Return the experiment that the notebook calls ``name``."""
        from flautim_lab.experiment.experiment import Experiment

        value = self._names.get(name)
        if isinstance(value, Experiment):
            return value
        if value is not None:
            raise UsageError(f"{name} is {_article(type(value).__name__)}, not an experiment")
        known = [
            other
            for other, thing in self._names.items()
            if isinstance(thing, Experiment) and not other.startswith("_")
        ]
        if known:
            raise UsageError(unknown(name, known, "experiment"))
        raise UsageError(
            f"no experiment named {name!r}; define one first, in a cell that starts with "
            f"%%experiment {name}"
        )

    def _run(self, name: str) -> Run:
        """Return the run that ``name`` stands for."""
        from flautim_lab.experiment.experiment import Experiment
        from flautim_lab.runners.launch import attach
        from flautim_lab.runners.run import Run

        value = self._names.get(name)
        if isinstance(value, Run):
            return value
        if isinstance(value, Experiment):
            raise UsageError(
                f"{name} is an experiment, not a run; start a run of it with %lab_run {name}"
            )
        return attach(name)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
