"""Run a user's program as ``__main__``, and end the process as Python ends after the program."""

from __future__ import annotations

import builtins
import runpy
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.machinery import BuiltinImporter, SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NoReturn

from testbed.workloads.script.python_code import CODE_NAME, INPUT_NAME, code_to_compile

from testbed.core.compat.interpreter_exit import INTERRUPTED, end_program

MODULE_FLAG = "-m"
LEAST_EXIT_CODE, MOST_EXIT_CODE = -(2**63), 2**63 - 1  # a C long, which sys.exit() accepts


def run_program(kind: str, words: list[str], source: str | None = None) -> NoReturn:
    """Run a program as ``__main__``, and end this process.

    Args:
        kind: ``file``, ``module``, ``code`` or ``input``.
        words: the file or module and its arguments; Python's arguments for the other kinds.
        source: the code from standard input, for the kind ``input``.
    """
    inherited = frozenset(sys.modules)
    main = ModuleType("__main__")
    if sys.version_info < (3, 14):
        main.__annotations__ = {}

    vars(main)["__builtins__"] = builtins
    sys.modules["__main__"] = main
    if "multiprocessing" in sys.modules:
        sys.modules["__mp_main__"] = main

    sys.argv = list(words)
    if kind == "module":
        sys.argv[0] = MODULE_FLAG  # until the module is found, as Python does
        status = _status_of(partial(_run_module, words[0]))
    elif kind == "code":
        del sys.argv[1]
        status = _status_of(partial(_run_code, main, words[1]))
    elif kind == "input":
        assert source is not None
        status = _status_of(partial(_run_input, main, source))
    else:
        status = _status_of(partial(_run_file, main, words[0]))

    del main
    end_program(status, inherited)


def _run_file(main: ModuleType, path: str) -> None:
    main.__file__ = path
    main.__cached__ = None  # type: ignore[attr-defined]
    main.__loader__ = SourceFileLoader("__main__", path)
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    exec(code, vars(main))


def _run_code(main: ModuleType, code: str) -> None:
    main.__loader__ = BuiltinImporter
    exec(compile(code_to_compile(code), CODE_NAME, "exec", dont_inherit=True), vars(main))


def _run_input(main: ModuleType, source: str) -> None:
    main.__file__ = INPUT_NAME
    main.__cached__ = None  # type: ignore[attr-defined]
    main.__loader__ = BuiltinImporter
    exec(compile(source, INPUT_NAME, "exec", dont_inherit=True), vars(main))


def _run_module(name: str) -> None:
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _status_of(program: Callable[[], None]) -> int:
    """Run a program, report the error that ends it as Python does, and return the exit status."""
    try:
        program()
    except SystemExit as stop:
        return _exit_status(stop.code)
    except BaseException as error:
        return _report(error)

    return 0


def _exit_status(code: object) -> int:
    """Return the exit status for the argument of `sys.exit`; print an argument of another type."""
    if code is None:
        return 0
    if isinstance(code, int):
        fits = LEAST_EXIT_CODE <= code <= MOST_EXIT_CODE
        return code & 0xFF if fits else 0xFF

    print(code, file=sys.stderr)
    return 1


def _report(error: BaseException) -> int:
    """Call `sys.excepthook` for the error that ends the program, and return the exit status."""
    trace = _trace_of_program(error.__traceback__)
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error

    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit as stop:
        return _exit_status(stop.code)
    except BaseException as hook_error:
        hook_error.__traceback__ = _trace_of_program(hook_error.__traceback__)
        hook_error.__context__ = None
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exception(hook_error)
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(error)

    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _trace_of_program(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the calls of this module that lead to the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next

    return trace
