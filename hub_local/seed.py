"""What the catalog of a local hub begins with: two institutions, three users, a project, a dataset.

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
from hub_config.institutions import read_institutions

CNPJ = {"ufmg": "17.217.985/0001-04", "ifnmg": "10.727.655/0001-10"}


def seed(list_of_institutions: Path, table: Path) -> None:
    """Fill the catalog of ``FLAUTIM_LAB_HOME``.

    Parameters
    ----------
    list_of_institutions : Path
    table : Path
        A CSV file of irises, which becomes the dataset of the second institution.
    """
    database = opening.database()
    everybody = LocalCatalog(database, Actor("admin", platform_admin=True))
    for key, each in read_institutions(list_of_institutions).items():
        with contextlib.suppress(ConflictError):
            everybody.add_institution(each.name, key=key, cnpj=CNPJ.get(key, ""))
    owner = LocalCatalog(database, Actor("bruno", institutions=frozenset({"ifnmg"})))
    everybody.set_roles("ifnmg", "bruno", [Role.RESEARCHER, Role.DATA_OWNER])
    if not owner.datasets("ifnmg").items:
        register_dataset("ifnmg", table, target="species", name="Iris", key="iris", catalog=owner)
    researcher = LocalCatalog(database, Actor("ana", institutions=frozenset({"ufmg"})))
    if not researcher.projects("ufmg").items:
        about = "Which iris is it?"
        researcher.add_project("ufmg", "Flowers", key="flowers", description=about)


if __name__ == "__main__":
    seed(Path(sys.argv[1]), Path(sys.argv[2]))
