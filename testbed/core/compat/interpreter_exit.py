"""Finalize a Python interpreter in a process that continues to run."""

from __future__ import annotations

import atexit
import threading

CHECKED = {"python": ("3.11", "3.12", "3.13", "3.14")}


def finish_interpreter() -> None:
    """Wait for all non-daemon threads and run the exit handlers, as Python does at exit."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
