"""End a Python program in a forked process as the interpreter ends, without the interpreter's end.

`Py_FinalizeEx` clears every module. In a process forked from a parent with many modules this copies
all their memory, and threads of torch that ask for the interpreter's lock abort the process. Here
only what the program itself has imported is cleared.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import gc
import io
import os
import signal
import site
import sys
import sysconfig
import threading
import weakref
from collections.abc import Collection
from types import ModuleType
from typing import Any, NoReturn, cast

CHECKED = {"python": ("3.11", "3.12", "3.13", "3.14")}

FLUSH_FAILED = 120  # exit status if standard output or error cannot be written
INTERRUPTED = -signal.SIGINT  # a program that SIGINT has ended
# Attributes of sys that finalization sets to None before it clears modules (CPython, pylifecycle.c
# and import.c: sys_deletes).
LAST_ATTRIBUTES = ("last_exc", "last_type", "last_value", "last_traceback")
DELETED_ATTRIBUTES = ("path", "argv", "path_hooks", "path_importer_cache", "meta_path")
NAMES_OF_MAIN = ("__main__", "__mp_main__")
STREAMS = ("stdin", "stdout", "stderr")
INSTALLED = frozenset([sysconfig.get_path("stdlib"), *site.getsitepackages()])


def end_program(status: int, inherited: Collection[str]) -> NoReturn:
    """End this process as Python ends after the last line of the program.

    Non-daemon threads are joined, exit handlers run, objects of the program are finalized, and
    every file that the program has left open is flushed.

    Args:
        status: exit status of the program; `INTERRUPTED` if SIGINT has ended the program.
        inherited: names of the modules that the parent has imported, which are not cleared.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException as error:  # such as KeyboardInterrupt: Python reports it and continues
        _report_ignored(error, threading)

    atexit._run_exitfuncs()
    if not _flush_streams() and status == 0:
        status = FLUSH_FAILED

    # Daemon threads, which finalization would stop, must not report that their modules are empty.
    threading.excepthook = _ignore
    # A collection finalizes the layers of a file in any order, and what the outer ones hold is lost
    # if an inner one comes first: the files stay until all other objects are finalized.
    files = _open_files()
    _finalize_modules(inherited)
    gc.collect()
    _close(files)
    _close(_open_files())
    _flush_streams()
    ctypes.CDLL(None).fflush(None)

    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)

    os._exit(status)


def _ignore(*_arguments: Any) -> None:
    return None


def _flush_streams() -> bool:
    """Flush standard output and error, and return whether both could be written."""
    written = True
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException as error:  # the stream may be an object of the program
            written = False
            if name == "stdout":
                _report_ignored(error, stream)

    return written


def _report_ignored(error: BaseException, where: object) -> None:
    """Report an error that does not end the program, as Python reports errors in finalizers."""
    with contextlib.suppress(BaseException):  # standard error may be broken, too
        print(f"Exception ignored in: {where!r}", file=sys.stderr)
        sys.__excepthook__(type(error), error, None)


def _finalize_modules(inherited: Collection[str]) -> None:
    """Release the modules of the program in the order of CPython's finalize_modules()."""
    builtins._ = None  # type: ignore[attr-defined]
    for name in LAST_ATTRIBUTES:
        if hasattr(sys, name):
            setattr(sys, name, None)

    for name in DELETED_ATTRIBUTES:
        setattr(sys, name, None)

    for name in STREAMS:
        setattr(sys, name, getattr(sys, f"__{name}__"))

    remaining: list[weakref.ref[ModuleType]] = []
    for name in list(sys.modules):
        is_kept = name in inherited or _is_installed(sys.modules[name])
        if is_kept and name not in NAMES_OF_MAIN:
            continue

        module = sys.modules.pop(name)
        if isinstance(module, ModuleType):
            remaining.append(weakref.ref(module))

        del module

    gc.collect()

    for reference in reversed(remaining):
        left = reference()
        if left is not None:
            _clear(left)

        del left


def _is_installed(module: object) -> bool:
    """Return whether a module belongs to Python or to an installed package."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return False

    return any(file.startswith(f"{folder}{os.sep}") for folder in INSTALLED)


def _clear(module: ModuleType) -> None:
    """Set the names of a module to None, first those with one leading underscore."""
    names = vars(module)
    for name in list(names):
        if name.startswith("_") and not name.startswith("__"):
            names[name] = None

    for name in list(names):
        if name != "__builtins__":
            names[name] = None


def _open_files() -> list[io.IOBase]:
    """Return all buffered files that are open, except the standard streams."""
    standard = [getattr(sys, f"__{name}__") for name in STREAMS]
    standard += [getattr(stream, "buffer", None) for stream in standard]
    files = []
    for thing in gc.get_objects():
        if _has_buffer(thing) and not any(thing is stream for stream in standard):
            files.append(cast(io.IOBase, thing))

    return files


def _close(files: list[io.IOBase]) -> None:
    """Close files, outer layers first."""
    for file in sorted(files, key=_layer):
        with contextlib.suppress(BaseException):  # the file may be an object of the program
            file.close()


def _has_buffer(thing: object) -> bool:
    """Return whether `thing` is an open file that may hold data not yet written."""
    if not issubclass(type(thing), io.IOBase) or issubclass(type(thing), io.RawIOBase):
        return False

    try:
        file = cast(io.IOBase, thing)
        return file.writable() and not file.closed
    except BaseException:  # not initialised, or an object of the program
        return False


def _layer(file: io.IOBase) -> int:
    """Return 0 for text, 1 for a compressor or another wrapper, and 2 for a plain buffer."""
    if isinstance(file, io.TextIOBase):
        return 0
    if type(file) in (io.BufferedWriter, io.BufferedRandom):
        return 2

    return 1
