"""What the catalog of a local hub begins with: two institutions, a project, two datasets.

Once: what is there already stays as it is.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from flautim_lab.catalog import opening
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.registering import register_dataset
from flautim_lab.catalog.things import Role
from flautim_lab.errors import ConflictError
from flautim_lab.home import home, private_folder
from flautim_lab.records.artifacts import write_atomic
from hub_config.institutions import read_institutions

CNPJ = {"ufmg": "17.217.985/0001-04", "ifnmg": "10.727.655/0001-10"}


def seed(list_of_institutions: Path, table: Path) -> None:
    """Fill the catalog of ``FLAUTIM_LAB_HOME``.

    Parameters
    ----------
    list_of_institutions : Path
    table : Path
        A CSV file of irises; each institution gets every other row as its dataset.
    """
    database = opening.database()
    everybody = LocalCatalog(database, Actor("admin", platform_admin=True))
    for key, each in read_institutions(list_of_institutions).items():
        with contextlib.suppress(ConflictError):
            everybody.add_institution(each.name, key=key, cnpj=CNPJ.get(key, ""))
    everybody.set_roles("ifnmg", "bruno", [Role.RESEARCHER, Role.DATA_OWNER])
    owner = LocalCatalog(database, Actor("admin", alone=True))  # of all data, until it runs
    for number, key in enumerate(("ufmg", "ifnmg")):
        if not owner.datasets(key).items:
            own = _half(table, number, private_folder(home() / "data" / key) / table.name)
            register_dataset(key, own, target="species", name="Iris", key="iris", catalog=owner)
            owner.change_dataset(f"{key}/iris", published=True)
    researcher = LocalCatalog(database, Actor("ana", institutions=frozenset({"ufmg"})))
    if not researcher.projects("ufmg").items:
        about = "Which iris is it?"
        researcher.add_project("ufmg", "Flowers", key="flowers", description=about)


def _half(table: Path, number: int, place: Path) -> Path:
    """Write every other row of a CSV file to a file of its own."""
    head, *rows = table.read_text(encoding="utf-8").splitlines()
    write_atomic(place, "\n".join([head, *rows[number::2], ""]).encode())
    return place


if __name__ == "__main__":
    seed(Path(sys.argv[1]), Path(sys.argv[2]))
