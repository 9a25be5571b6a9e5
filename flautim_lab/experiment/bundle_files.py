"""Gather the source of classes and functions into the files of a bundle.

What was typed in cells becomes one readable module: imports, values, definitions, in an order in
which it runs. What lives in the researcher's own ``.py`` files is copied whole. What is installed
is only named.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle_text import TangledError, defined_in, render
from flautim_lab.experiment.bundle_unit import (
    Item,
    Place,
    Unit,
    free_path,
    import_each_other,
    top_module,
    two_different,
)
from flautim_lab.experiment.source import (
    Definition,
    find_definition,
    no_source,
    parse,
    plain_python,
    tail,
    texts,
)
from flautim_lab.experiment.source_code import namespace_of
from flautim_lab.experiment.source_modules import (
    LocalFiles,
    check_file,
    from_library,
    is_installed,
    is_reachable,
    of_ipython,
    only_imported,
    public_home,
    split_bundle,
)
from flautim_lab.experiment.source_names import Use, check_unchanged, imported_as, imports, uses
from flautim_lab.experiment.source_values import CannotKeepError, a, expression, is_definable

_MISSING = object()


class _AgainError(Exception):
    """What was chosen early does not fit what was found late; gather again without it."""

    def __init__(self, taken: Iterable[str] = (), cells: Iterable[str] = ()) -> None:
        super().__init__()
        self.taken = set(taken)
        self.cells = set(cells)


def gather(
    objects: Mapping[str, object], cells: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files and references of a bundle (path to text, role to reference).

    Parameters
    ----------
    objects : mapping
        Role to class, function, or ``functools.partial`` of one.
    cells : mapping
        Name to source of the cells that are kept whole.

    Raises
    ------
    BundleError
        If a source cannot be found, or a name that it uses cannot be kept.
    """
    taken: set[str] = set()
    while True:
        gatherer = _Gatherer(cells, taken)
        try:
            # Partials come last: they take a name that nothing else has.
            roles = sorted(objects, key=lambda r: (isinstance(objects[r], functools.partial), r))
            references = {role: gatherer.reference(role, objects[role]) for role in roles}
            return gatherer.files(), references
        except _AgainError as again:
            taken |= again.taken
            cells = {name: text for name, text in cells.items() if name not in again.cells}


class _Gatherer:
    def __init__(self, cells: Mapping[str, str], taken: set[str]) -> None:
        plain = {name: plain_python(text) for name, text in cells.items()}
        self._cells = {name: text for name, text in plain.items() if text is not None}
        self._taken = taken
        self._units: dict[tuple[int, str], Unit] = {}
        self._local = LocalFiles()

    # --- roles and files --------------------------------------------------------------------

    def reference(self, role: str, obj: Any) -> str:
        """Return the reference of one role."""
        if isinstance(obj, functools.partial):
            return self._partial(role, obj)
        if not is_definable(obj):
            raise BundleError(
                f"the {role} is {a(obj)}, which is not kept; give its class, or a function "
                "that makes it"
            )
        return self._place(obj, f"the {role}").reference

    def _partial(self, role: str, obj: Any) -> str:
        unit = self._unit(vars(sys.modules["__main__"]), "")
        name = f"make_{role}"
        while name in unit.names:
            name += "_"
        try:
            self._value(unit, name, obj)
        except CannotKeepError as error:
            raise BundleError(
                f"the {role} is {error}, which cannot be kept as source; "
                "give a class or a function with plain arguments"
            ) from error
        unit.names[name] = obj
        return f"{unit.path}:{name}"

    def files(self) -> dict[str, str]:
        """Return path to text."""
        theirs = {top_module(path) for path in self._local.by_path}
        clash = theirs & {top_module(unit.path) for unit in self._units.values()}
        if clash:
            raise _AgainError(taken=clash)
        kept = [unit.cell for unit in self._units.values() if unit.cell]
        if kept and import_each_other(self._units.values()):
            raise _AgainError(cells=kept)
        found = {path: file.text for path, file in self._local.by_path.items()}
        for unit in self._units.values():
            try:
                found[unit.path] = render(unit)
            except TangledError:
                raise _AgainError(cells=[unit.cell]) from None
        return dict(sorted(found.items()))

    def _unit(self, namespace: Mapping[str, Any], cell: str) -> Unit:
        key = (id(namespace), cell)
        if key not in self._units:
            path = free_path(cell, {unit.path for unit in self._units.values()}, self._taken)
            self._units[key] = Unit(path, namespace, cell, self._cells.get(cell, ""))
        return self._units[key]

    # --- classes and functions ----------------------------------------------------------------

    def _place(self, obj: Any, user: str) -> Place:
        """Find where ``obj`` is defined, and see that the bundle has it."""
        if isinstance(obj, MethodType):
            owner = self._place(obj.__self__, user)
            name = f"{owner.qualname}.{obj.__name__}"
            return Place(name, owner.unit, owner.module, owner.path)
        inner = inspect.unwrap(obj)
        if getattr(inner, "__name__", "") == "<lambda>":
            raise BundleError(
                f"{user} is a lambda, which cannot be kept as source; write it as a function "
                "with def"
            )
        module = sys.modules.get(getattr(obj, "__module__", None) or "")
        if module is not sys.modules["__main__"]:
            if module is not None and is_reachable(obj):
                found = self._importable(obj, module)
            else:
                found = self._installed(obj)
            if found:
                return found
        # exec without a module's name gives "builtins"; that is said better where it is looked for.
        theirs = module is not None and is_installed(module) and module is not builtins
        if theirs or not isinstance(inner, type | FunctionType):
            raise BundleError(
                f"{user} was made while the program ran and has no name of its own, so it cannot "
                "be kept as source; write a function with def that makes it"
            )
        return self._typed(obj)

    def _importable(self, obj: Any, module: ModuleType) -> Place | None:
        if is_installed(module):
            return self._installed(obj)
        file = self._local.copy(module.__name__)
        if file is None:
            return None
        check_file(file, module, obj)
        namespace = namespace_of(obj)
        definition = find_definition(obj, namespace)
        if definition:
            check_unchanged(definition, obj, namespace, set(), from_library)
        return Place(obj.__qualname__, module=file.module, path=file.path)

    def _installed(self, obj: Any) -> Place | None:
        home = public_home(obj)
        if home is None or not is_installed(sys.modules[home[0]]):
            return None
        return Place(home[1], module=home[0])

    def _typed(self, obj: Any) -> Place:
        namespace = namespace_of(obj)
        qualname = tail(inspect.unwrap(obj).__qualname__)
        definition = find_definition(obj, namespace)
        if definition is None:
            if isinstance(obj, type) and hasattr(obj, "_fields") and issubclass(obj, tuple):
                return self._namedtuple(obj, namespace)
            raise no_source(obj, qualname)
        cells = (name for name, text in self._cells.items() if defined_in(definition, text))
        unit = self._unit(namespace, next(cells, ""))
        known = unit.items.get(definition.name)
        if known is None:
            self._define(unit, definition, obj if qualname == definition.name else None)
        elif known.text != definition.source:
            raise two_different(definition.name)
        return Place(qualname, unit)

    def _namedtuple(self, cls: Any, namespace: Mapping[str, Any]) -> Place:
        name = cls.__name__
        unit = self._unit(namespace, "")
        if name not in unit.items:
            unit.import_module("collections")
            item = unit.items[name] = Item(name)
            try:
                defaults = self._expression(unit, item, list(cls._field_defaults.values()))
            except CannotKeepError as error:
                raise BundleError(
                    f"the defaults of `{name}` are {error}, which cannot be kept as source; "
                    f"leave them out"
                ) from None
            fields = f"{name!r}, {list(cls._fields)!r}, defaults={defaults}"
            item.text = f"{name} = collections.namedtuple({fields})\n"
            unit.names[name] = cls
        return Place(name, unit)

    def _define(self, unit: Unit, definition: Definition, obj: Any) -> None:
        name = definition.name
        item = unit.items[name] = Item(name, definition.source, definition)
        if not unit.mean(name, unit.namespace.get(name) if obj is None else obj):
            raise two_different(name)
        for module in imports(definition.node):
            self._local.copy(module)
        # A base may have been defined again since; the class extends the older one.
        bases = {base.__qualname__: base for base in getattr(obj, "__bases__", ())}
        values = set()
        for use in uses(definition):
            if use.name in definition.local_names and not use.optional:
                raise _local_variable(definition, use.name)
            self._need(unit, use, item, bases)
            made = unit.items.get(use.name)
            if use.early and made is not None and made.definition is None:
                values.add(use.name)
        if obj is not None:
            check_unchanged(definition, obj, unit.namespace, values, from_library)

    # --- names --------------------------------------------------------------------------------

    def _need(self, unit: Unit, use: Use, item: Item, bases: Mapping[str, type]) -> None:
        """See that ``use.name`` means in the file what it means in the notebook now."""
        name = use.name
        if name == item.name:
            if use.early:
                raise BundleError(
                    f"`{name}` is made from another `{name}`; give one of them another name"
                )
            return
        if name == "__file__":
            raise BundleError(
                f"`{item.name}` uses `__file__`, the path of a file that will not be there; "
                "make the path an argument"
            )
        value = unit.namespace.get(name, _MISSING)
        if name in bases and use.early and (value is _MISSING or isinstance(value, type)):
            value = bases[name]
        if value is _MISSING or of_ipython(name, value):
            value = vars(builtins).get(name, _MISSING)
            if value is not _MISSING and not of_ipython(name, value):
                return
        if use.optional and not only_imported(value):
            return
        if value is _MISSING:
            raise BundleError(
                f"`{item.name}` uses `{name}`, which nothing defines; "
                f"import it in the cell that defines `{item.name}`"
            )
        if not unit.mean(name, value):
            made = unit.items.get(name)
            if not is_definable(value) or made is None or made.definition is None:
                raise two_different(name)
            self._place(value, f"`{name}`")  # the same text, run twice, is fine
        elif not unit.has(name):
            self._provide(unit, name, value, item)
        if isinstance(value, ModuleType):
            inner = unit.import_inner(value, use.attributes)
            if inner is not None:
                self._local.copy(inner.__name__)
        (item.early if use.early else item.late).append(name)

    def _provide(self, unit: Unit, name: str, value: Any, item: Item) -> None:
        if isinstance(value, ModuleType):
            unit.import_module(self._module_name(value, name, item), name)
        elif is_definable(value):
            if not is_reachable(value) and self._import_again(unit, name, value):
                return
            unit.bind(name, self._place(value, f"`{name}`"))
        else:
            try:
                self._value(unit, name, value)
            except CannotKeepError as error:
                if self._import_again(unit, name, value):
                    return
                is_class = item.definition and hasattr(item.definition.node, "bases")
                raise BundleError(
                    f"`{item.name}` uses `{name}`, {error}, which cannot be kept as source; make "
                    f"it an argument or read it inside the {'class' if is_class else 'function'}"
                ) from None

    def _import_again(self, unit: Unit, name: str, value: object) -> bool:
        """Import what a cell imported, such as a constant of a package, if one did."""
        trees = [parse(text) for text in texts(unit.namespace)]
        home = imported_as(name, value, [tree for tree in trees if tree])
        if home is None or home[0] == "__main__":
            return False
        self._local.copy(home[0])
        unit.bind(name, Place(home[1], module=split_bundle(home[0])[1]))
        return True

    def _value(self, unit: Unit, name: str, value: Any) -> None:
        if _is_secret(value):
            raise BundleError(
                f"`{name}` holds the value of an environment variable, which would be written "
                "into the bundle as it is; read os.environ inside the class instead"
            )
        item = Item(name)
        item.text = f"{name} = {self._expression(unit, item, value)}\n"
        unit.items[name] = item

    def _expression(self, unit: Unit, item: Item, value: Any) -> str:
        return expression(value, lambda inner: self._mention(unit, inner, item))

    def _mention(self, unit: Unit, obj: Any, item: Item) -> str:
        """Return an expression for a class, function or module inside a value of ``unit``."""
        if isinstance(obj, ModuleType):
            return unit.import_own_name(self._module_name(obj, item.name, item))
        place = self._place(obj, f"`{item.name}`")
        if place.unit is None and place.module != "builtins":
            return f"{unit.import_own_name(place.module)}.{place.qualname}"
        if place.unit is unit:
            item.early.append(place.top)
        elif place.unit is not None:
            if place.qualname == place.top and not unit.mean(place.top, obj):
                raise two_different(place.top)
            unit.foreign[place.top] = (place.unit, place.top)
        return place.qualname

    # --- modules ------------------------------------------------------------------------------

    def _module_name(self, module: ModuleType, name: str, item: Item) -> str:
        """Return the name that imports ``module`` inside the bundle, and copy it if it is local."""
        if sys.modules.get(module.__name__) is not module or module.__name__ == "__main__":
            raise BundleError(
                f"`{item.name}` uses `{name}`, a module that no import can find again; "
                "put what it needs into the cell or into a .py module"
            )
        self._local.copy(module.__name__)
        return split_bundle(module.__name__)[1]


def _local_variable(definition: Definition, variable: str) -> BundleError:
    name, function = definition.name, definition.function
    wraps = f"; if `{function}` is a decorator, write @functools.wraps above `{name}`"
    return BundleError(
        f"`{name}` uses `{variable}`, a local variable of `{function}`, inside which it is "
        f"defined; make it an argument of `{name}`, or define `{name}` at the top level of a cell "
        f"or module{'' if hasattr(definition.node, 'bases') else wraps}"
    )


def _is_secret(value: Any) -> bool:
    """Return whether a text is what an environment variable holds, and no path, flag or number."""
    if not isinstance(value, str) or len(value) < 8 or "/" in value:
        return False
    return value in os.environ.values()
