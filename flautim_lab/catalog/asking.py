"""``lab.ask_for_data``: show an experiment's code to the owners of the data that it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flautim_lab.catalog import opening
from flautim_lab.catalog.code import saved_code
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.things import GrantRequest
from flautim_lab.errors import CatalogError
from flautim_lab.experiment.code import Code
from flautim_lab.experiment.experiment import Experiment


def ask_for_data(
    experiment: str | Experiment,
    *,
    project: str = "",
    datasets: Sequence[str] = (),
    note: str = "",
    catalog: Catalog | None = None,
) -> tuple[GrantRequest, ...]:
    """Ask the owners of an experiment's data for them, showing its code.

    Parameters
    ----------
    experiment : str or Experiment
        A saved one, such as ``"ufmg/vision/first"``, or one of this notebook.
    project : str
        That is to use them; a saved experiment has its own.
    datasets : sequence of str
        Which; by default those of a saved experiment that its project may not use yet.
    note : str
        To their owners.
    catalog : Catalog, optional
        ``lab.open_catalog()`` by default.

    Returns
    -------
    tuple of GrantRequest
        Whose ``answer`` tells what became of each, once they are read again.

    Raises
    ------
    CatalogError
        If there is nothing to ask for, or it cannot be asked.
    BundleError
        If the code of a notebook's experiment has no source.
    """
    opened = catalog or opening.open_catalog()
    if isinstance(experiment, str):
        return _for_saved(experiment, datasets, note, opened)
    if not project or not datasets:
        raise CatalogError(
            "say for which project, and which datasets, as in "
            "lab.ask_for_data(experiment, project='ufmg/vision', datasets=['ifnmg/telemetry'])"
        )
    settings = json.loads(experiment.to_json())
    code = Code.of_bundle(experiment.bundle(), settings)
    return tuple(
        opened.ask_grant(each, project, code=code, settings=settings, note=note)
        for each in datasets
    )


def _for_saved(
    ref: str, datasets: Sequence[str], note: str, catalog: Catalog
) -> tuple[GrantRequest, ...]:
    version = catalog.experiment(ref)
    project = "/".join(version.ref.split("/")[:2])
    home = version.ref.partition("/")[0]
    named = [each.partition("@")[0] for each in version.datasets]
    others = [each for each in datasets or named if each.partition("/")[0] != home]
    if not others:
        raise CatalogError(f"the data of {version.ref} are all of {home}, and need no grant")
    code = saved_code(version, catalog).hash
    asked = [each for each in others if datasets or not catalog.granted(each, project, code=code)]
    if not asked:
        raise CatalogError(f"all data of {version.ref} are granted for this code already; run it")
    return tuple(
        catalog.ask_grant(each, project, experiment=version.ref, note=note) for each in asked
    )
