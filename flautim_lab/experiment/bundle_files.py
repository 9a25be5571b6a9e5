"""Gather the source of classes and functions into the files of a bundle.

What was typed in cells becomes one readable module: imports, values, definitions, in an order in
which it runs. What lives in the researcher's own ``.py`` files is copied whole. What is installed
is only named.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle_text import Item, Unit, render, stands_alone
from flautim_lab.experiment.source import (
    Definition,
    find_definition,
    find_in_cell,
    namespace_of,
    no_source,
    parse,
    tail,
    texts,
)
from flautim_lab.experiment.source_modules import (
    LocalFile,
    check_file,
    is_installed,
    local_file,
    public_home,
    split_bundle,
    walk,
)
from flautim_lab.experiment.source_names import Use, check_unchanged, imported_as, imports, uses
from flautim_lab.experiment.source_values import CannotKeepError, a, expression, is_definable
from flautim_lab.names import slug
