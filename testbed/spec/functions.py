"""Scripts that call Python functions, so that a function can be the workload of a run.

Every rank is a separate process in another kernel, so the function object cannot be sent to a rank.
A self-contained function is sent as source: the function has to import its dependencies in its body
and use no other name of its module. Otherwise every rank imports the function from its module,
which then has to be a file that can be imported again.
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
        name: File name of the script.
        text: Contents of the script.
        readable: Folders that hosts must be able to read, in addition to the script's folder.
    """

    name: str
    text: str
    readable: tuple[Path, ...] = ()


def script_of(function: Callable[[], object]) -> FunctionScript:
    """Return a script that calls `function`.

    Args:
        function: A ``def`` without required parameters, self-contained or importable.

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
    """Return the function's source without indentation; None if unavailable."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None


def _outside_names(source: str, name: str) -> list[str]:
    """Return the names that a function's source uses without defining them."""
    try:
        module = symtable.symtable(source, f"{name}.py", "exec")
    except SyntaxError:  # such as for a function inside an expression
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
    """Return the folder from which the function's module can be imported; None without one."""
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
    """Return whether `function` is the object that its module has under the function's name."""
    found: Any = getattr(module, function.__name__, None)
    return found is function


def _importing_text(function: FunctionType, folder: Path) -> str:
    module, name = function.__module__, function.__name__
    return (
        f"import sys\n\nsys.path[0] = {str(folder)!r}\n\nfrom {module} import {name}\n\n{name}()\n"
    )
