"""The names that a definition takes from outside itself, as the interpreter will look them up."""

from __future__ import annotations

import ast
import dis
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.source import Definition
from flautim_lab.experiment.source_code import FUTURE_ANNOTATIONS, class_functions

# Each module has its own; none of them can be kept, and none needs to be.
OF_EVERY_MODULE = {
    "__annotations__",
    "__builtins__",
    "__classdict__",
    "__conditional_annotations__",
    "__debug__",
    "__doc__",
    "__loader__",
    "__name__",
    "__package__",
    "__spec__",
}
_LOADS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}


@dataclass(frozen=True)
class Use:
    """One global name that a definition uses.

    Attributes
    ----------
    name : str
        The name.
    attributes : tuple of str
        The attributes read from it in one go: ``torch.nn.functional`` gives nn, functional.
    early : bool
        Whether it is needed when the definition itself runs (a base, a decorator, a default, the
        body of a class), and not only when a function is called.
    optional : bool
        Whether it stands in an annotation that nobody need evaluate.
    """

    name: str
    attributes: tuple[str, ...] = ()
    early: bool = False
    optional: bool = False


def uses(definition: Definition) -> list[Use]:
    """Return the global names that ``definition`` uses, in order, each use once.

    The compiled code is read rather than the text: there scopes, comprehensions, ``super()`` and
    unevaluated annotations are what the interpreter makes of them.
    """
    flags = FUTURE_ANNOTATIONS if definition.future_annotations else 0
    code = compile(definition.source, "<definition>", "exec", flags, dont_inherit=True)
    found = list(dict.fromkeys(_code_uses(code, early=True)))
    known = {use.name for use in found}
    annotated = dict.fromkeys(_annotation_names(definition.node))
    found += [Use(name, optional=True) for name in annotated if name not in known]
    return [use for use in found if use.name not in OF_EVERY_MODULE]


def _code_uses(code: CodeType, *, early: bool) -> Iterator[Use]:
    # A function decides at compile time what is local; a class body or module does as it runs.
    as_it_runs = not code.co_flags & inspect.CO_OPTIMIZED or _is_generic(code)
    optional = code.co_name == "__annotate__"  # Python 3.14: run only when somebody asks
    stored: set[str] = set()
    instructions = list(dis.get_instructions(code))
    for number, instruction in enumerate(instructions):
        if instruction.opname == "STORE_NAME":
            stored.add(instruction.argval)
        elif instruction.opname in _LOADS and instruction.argval not in stored:
            chain = []
            for following in instructions[number + 1 :]:
                if following.opname not in _ATTRIBUTES:
                    break
                chain.append(following.argval)
            yield Use(instruction.argval, tuple(chain), early, optional)
        elif isinstance(instruction.argval, CodeType):
            inner = instruction.argval
            at_once = as_it_runs and _runs_at_once(inner)
            yield from _code_uses(inner, early=early and at_once)


def _runs_at_once(code: CodeType) -> bool:
    """Whether code inside a class body or module runs with it: a class, a comprehension."""
    is_class = not code.co_flags & inspect.CO_OPTIMIZED
    comprehensions = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
    return is_class or code.co_name in comprehensions or _is_generic(code)


def _is_generic(code: CodeType) -> bool:
    """Whether code is what Python 3.12 wraps around ``class Net[T]``."""
    return code.co_name.startswith("<generic parameters")


def _annotation_names(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        annotations = []
        if isinstance(inner, ast.arg | ast.AnnAssign):
            annotations.append(inner.annotation)
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            annotations.append(inner.returns)
        for annotation in annotations:
            yield from _names_in(annotation)


def _names_in(annotation: ast.AST | None) -> Iterator[str]:
    for part in ast.walk(annotation) if annotation else ():
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                yield from _names_in(ast.parse(part.value, mode="eval"))
            except (SyntaxError, ValueError):
                continue  # a string that is no annotation, as in Literal["a b"]


def imports(tree: ast.AST, package: str = "") -> list[str]:
    """Return the modules that import statements in ``tree`` may load, in order.

    ``from a import b`` gives ``a`` and ``a.b``, since ``b`` may be a module or not.

    Parameters
    ----------
    tree : ast node
        Where to look, functions included.
    package : str
        The package in which relative imports are resolved.
    """
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                found += [".".join(parts[: i + 1]) for i in range(len(parts))]
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                outer = package.split(".")
                parts = outer[: len(outer) - node.level + 1] + parts
            found += [".".join(parts[: i + 1]) for i in range(len(parts))]
            found += [".".join([*parts, alias.name]) for alias in node.names]
    return list(dict.fromkeys(found))


def imported_as(name: str, value: object, trees: list[ast.Module]) -> tuple[str, str] | None:
    """Return module and attribute by which a ``from`` statement gave ``name`` this very value."""
    for tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            module = sys.modules.get(node.module)
            for alias in node.names:
                wanted = name if alias.name == "*" else alias.name
                bound = alias.asname or wanted
                if module and bound == name and getattr(module, wanted, None) is value:
                    return node.module, wanted
    return None


# --- the class in memory against the class that its text would make now ---------------------


def check_unchanged(
    definition: Definition,
    obj: Any,
    namespace: Mapping[str, Any],
    values: set[str],
    from_library: Callable[[FunctionType], bool],
) -> None:
    """Raise where the text of ``definition`` would no longer make ``obj``.

    Parameters
    ----------
    definition : Definition
        The text.
    obj : class or function
        What it made.
    namespace : mapping
        The globals of ``obj``.
    values : set of str
        Names of plain values that the definition reads while it runs: defaults such as
        ``hidden=hidden``, which keep the value of that time.
    from_library : callable
        Whether a function comes from a package, whose own code put it into the class.

    Raises
    ------
    BundleError
        If a method was replaced, or a default was made from a value that has changed since.
    """
    if isinstance(obj, type):
        _check_methods(definition.node, obj, from_library)
    for where, expression, then in _evaluated_once(definition.node, obj):
        names = {part.id for part in ast.walk(expression) if isinstance(part, ast.Name)}
        if not names & values or not _harmless(expression, values):
            continue
        code = compile(ast.Expression(expression), "<default>", "eval")
        now = eval(code, {name: namespace[name] for name in names})  # noqa: S307 (no calls in it)
        if type(now) is not type(then) or now != then:
            raise BundleError(
                f"`{where}` was made with {then!r}, and `{ast.unparse(expression)}` is {now!r} "
                f"now; run the cell that defines `{definition.name}` again"
            )


def _check_methods(node: ast.AST, cls: type, from_library: Callable[[FunctionType], bool]) -> None:
    if not isinstance(node, ast.ClassDef):
        return
    now = class_functions(cls)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    defined = {part.name: part for part in node.body if isinstance(part, kinds)}
    # What a decorator or an assignment in the body made of it, it will make of it again.
    free = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    free |= {name for name, part in defined.items() if part.decorator_list}
    for name, function in now.items():
        theirs = from_library(function) or name in free or "." in name
        generated = function.__code__.co_filename.startswith(("<string>", "<attrs"))
        own = function.__code__.co_qualname == f"{cls.__qualname__}.{name}"
        added = name not in defined and bool(node.decorator_list)
        if not (theirs or generated or own or added):
            raise BundleError(
                f"`{cls.__name__}.{name}` was replaced after the class was defined; "
                f"put it into the cell that defines `{cls.__name__}`, and run that again"
            )


def _evaluated_once(node: ast.AST, obj: Any) -> Iterator[tuple[str, ast.expr, object]]:
    """Yield (where, expression, its value then) for the defaults and attributes of ``obj``."""
    if isinstance(node, ast.ClassDef) and isinstance(obj, type):
        functions = class_functions(obj)
        for part in node.body:
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.name in functions:
                yield from _evaluated_once(part, functions[part.name])
            target: ast.expr | None = None
            if isinstance(part, ast.Assign) and len(part.targets) == 1:
                target = part.targets[0]
            elif isinstance(part, ast.AnnAssign) and part.value:
                target = part.target
            if isinstance(target, ast.Name) and target.id in vars(obj):
                value = part.value  # type: ignore[attr-defined]
                yield f"{obj.__name__}.{target.id}", value, vars(obj)[target.id]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(obj, FunctionType):
        positional = [*node.args.posonlyargs, *node.args.args]
        then = obj.__defaults__ or ()
        if len(then) == len(node.args.defaults):
            named = positional[len(positional) - len(then) :]
            for argument, expression, value in zip(named, node.args.defaults, then, strict=True):
                yield f"{obj.__qualname__}({argument.arg}=)", expression, value
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            if default is not None and argument.arg in (obj.__kwdefaults__ or {}):
                value = (obj.__kwdefaults__ or {})[argument.arg]
                yield f"{obj.__qualname__}({argument.arg}=)", default, value


def _harmless(expression: ast.expr, values: set[str]) -> bool:
    """Whether evaluating it only reads plain values: names, constants, arithmetic."""
    allowed = (
        ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.List, ast.Compare,
        ast.BoolOp, ast.IfExp, ast.Dict, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
        ast.expr_context,
    )  # fmt: skip
    return all(
        isinstance(part, allowed) and (not isinstance(part, ast.Name) or part.id in values)
        for part in ast.walk(expression)
    )
