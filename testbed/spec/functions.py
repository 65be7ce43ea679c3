"""Scripts made of Python functions, so that a function can be a run's workload.

Every rank is a process of its own in another kernel, so the function itself cannot be sent there.
Either its source is: then the function has to be self-contained, which means that it imports what
it uses inside its body and refers to no other name of its module. Or every rank imports the
function from its module: then the module has to be a file that can be imported anew.
"""

from __future__ import annotations

import builtins
import inspect
import symtable
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from testbed.core.errors import InputError, Place

WHERE = Place("workload")
RULES = (
    "a workload function is made by `def`, takes no arguments, and imports what it uses in its body"
)


@dataclass(frozen=True)
class FunctionScript:
    """A script that calls a function.

    Attributes:
        name: Name of the file.
        text: The file.
        readable: Folders that hosts have to see, besides that of the file.
    """

    name: str
    text: str
    readable: tuple[Path, ...] = ()


def script_of(function: Callable[[], object]) -> FunctionScript:
    """Make a script that calls `function`.

    Args:
        function: Made by ``def``, without required parameters; self-contained or importable.

    Raises:
        InputError: The function is of another kind.
    """
    if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
        raise InputError(f"{function!r} is not a plain function", place=WHERE, remedy=RULES)

    name = function.__name__
    _check_parameters(function)
    source = _source_of(function)
    outside = ["its source"] if source is None else _outside_names(source, name)
    if source is not None and not outside:
        return FunctionScript(f"{name}.py", f"{source}\n\n{name}()\n")

    folder = _import_folder(function)
    if folder is None:
        names = ", ".join(outside)
        raise InputError(
            f"the function {name} depends on {names}, which ranks do not have",
            place=WHERE,
            remedy=f"{RULES}; or move it to a module that can be imported",
        )
    return FunctionScript(f"{name}.py", _importing_text(function, folder), (folder,))


def _check_parameters(function: FunctionType) -> None:
    for parameter in inspect.signature(function).parameters.values():
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not is_variadic:
            raise InputError(
                f"the function {function.__name__} needs the argument {parameter.name!r}",
                place=WHERE,
                remedy=RULES,
            )


def _source_of(function: FunctionType) -> str | None:
    """Get the function's source without indentation; None if there is none."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None


def _outside_names(source: str, name: str) -> list[str]:
    """Find the names that a function's source uses and does not define."""
    try:
        module = symtable.symtable(source, f"{name}.py", "exec")
    except SyntaxError:  # such as a function that is part of an expression
        return ["the statement around it"]

    names: dict[str, None] = {}
    waiting = [module]
    while waiting:
        scope = waiting.pop(0)
        waiting += scope.get_children()
        for symbol in scope.get_symbols():
            is_global = scope is module or symbol.is_global()
            if is_global and symbol.is_referenced():
                names[symbol.get_name()] = None

    known = {name, "__name__", *dir(builtins)}
    return [used for used in names if used not in known]


def _import_folder(function: FunctionType) -> Path | None:
    """Find the folder from which the function's module can be imported; None if it cannot be."""
    module = sys.modules.get(function.__module__)
    is_main = function.__module__ == "__main__"
    if is_main or module is None or not _holds(module, function):
        return None

    file = getattr(module, "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    parts = function.__module__.split(".")
    if path.name == "__init__.py":
        path = path.parent
    expected: Sequence[str] = path.with_suffix("").parts[-len(parts) :]
    if list(expected) != parts:
        return None
    return path.parents[len(parts) - 1]


def _holds(module: ModuleType, function: FunctionType) -> bool:
    """Whether `function` is what its module has under its name."""
    found: Any = getattr(module, function.__name__, None)
    return found is function


def _importing_text(function: FunctionType, folder: Path) -> str:
    module, name = function.__module__, function.__name__
    return (
        f"import sys\n\nsys.path[0] = {str(folder)!r}\n\nfrom {module} import {name}\n\n{name}()\n"
    )
