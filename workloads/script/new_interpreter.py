"""Give a forked process the state of an interpreter that has just started."""

from __future__ import annotations

import gc
import importlib.machinery
import io
import logging
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn, cast

import torch

from testbed.workers import stacks

STANDARD_FILES = 3
MOST_FILES = 2**20
HOOKS_OF_SYS = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")
IGNORED_SIGNALS = ("SIGPIPE", "SIGXFSZ")  # by Python, at its start
MODULE_SUFFIXES = tuple(importlib.machinery.all_suffixes())


def renew_process() -> None:
    """Close inherited files, and reset signals, as for a process that a shell starts.

    The signal that asks for stacks keeps its handler.
    """
    os.closerange(STANDARD_FILES, MOST_FILES)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, stacks.SIGNAL}:
        signal.signal(number, signal.SIG_DFL)

    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def execute(words: list[str]) -> NoReturn:
    """Replace this process by a command, which is looked for in PATH."""
    os.execvp(words[0], words)


def renew_interpreter(search_path: Sequence[str], words: Sequence[str]) -> None:
    """Set streams, signals, hooks, logging and paths as a new interpreter does.

    Args:
        search_path: value of `sys.path`.
        words: the program and its arguments.
    """
    for name in IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _renew_streams()
    _renew_hooks()
    _renew_logging()
    sys.path[:] = search_path
    sys.path_importer_cache.clear()
    sys.orig_argv[:] = [sys.executable, *words]
    tempfile.tempdir = None
    gc.enable()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.ORIGINAL_DIR = str(Path.cwd())  # type: ignore[attr-defined]


def seed_generators(seed: int, rank: int) -> None:
    """Seed random numbers by run and rank, because fresh interpreters draw different numbers."""
    random.seed(f"{seed}/{rank}")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(random.getrandbits(32))

    torch.default_generator.manual_seed(random.getrandbits(63))


def shadowed_modules(folders: Iterable[str]) -> list[str]:
    """Return the modules of this process that a program would import from `folders` instead.

    Args:
        folders: folders that the program searches before those of Python and its packages.
    """
    imported = {name.partition(".")[0] for name in sys.modules}
    shadowed = []
    for folder in folders:
        for name in sorted(_modules_in(folder) & imported):
            file = getattr(sys.modules.get(name), "__file__", None) or ""
            if not file.startswith(f"{folder}{os.sep}"):
                shadowed.append(name)

    return shadowed


def _modules_in(folder: str) -> set[str]:
    """Return the names of the modules and packages that Python finds in `folder`."""
    names: set[str] = set()
    try:
        entries = sorted(entry.name for entry in Path(folder).iterdir())
    except OSError:  # Python also ignores folders that it cannot read
        return names

    for entry in entries:
        name = entry.partition(".")[0]
        is_package = name == entry and Path(folder, entry, "__init__.py").is_file()
        if is_package or entry.endswith(MODULE_SUFFIXES):
            names.add(name)

    return names


def _renew_streams() -> None:
    """Replace the streams of the parent, which may hold unwritten text or be closed."""
    unbuffered = os.environ.get("PYTHONUNBUFFERED", "") != ""
    streams = {
        "stdin": _stream("stdin", 0, unbuffered=unbuffered),
        "stdout": _stream("stdout", 1, unbuffered=unbuffered),
        "stderr": _stream("stderr", 2, unbuffered=unbuffered),
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _stream(name: str, fd: int, *, unbuffered: bool = False) -> io.TextIOWrapper:
    """Return a standard stream as Python creates it (CPython, pylifecycle.c: create_stdio)."""
    like = cast(io.TextIOWrapper, getattr(sys, f"__{name}__") or sys.__stdout__)
    mode = "r" if fd == 0 else "w"
    raw = io.FileIO(fd, mode, closefd=False)
    raw.name = f"<{name}>"
    buffer: io.FileIO | io.BufferedReader | io.BufferedWriter = raw
    if fd == 0:
        buffer = io.BufferedReader(raw)
    elif not unbuffered:
        buffer = io.BufferedWriter(raw)

    stream = io.TextIOWrapper(
        buffer,
        like.encoding,
        like.errors,
        newline=None if fd == 0 else "\n",
        line_buffering=not unbuffered and (fd == 2 or raw.isatty()),
        write_through=unbuffered,
    )
    stream.mode = mode  # type: ignore[misc]
    return stream


def _renew_hooks() -> None:
    for name in HOOKS_OF_SYS:
        setattr(sys, name, getattr(sys, f"__{name}__"))

    threading.excepthook = threading.__excepthook__
    sys.settrace(None)
    sys.setprofile(None)


def _renew_logging() -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)

    root.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
