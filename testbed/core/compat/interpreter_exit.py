"""The end of a Python interpreter, in a process that goes on."""

from __future__ import annotations

import atexit
import threading

CHECKED = {"python": ("3.11", "3.12", "3.13", "3.14")}


def finish_interpreter() -> None:
    """Wait for all threads that are not daemons and run the exit handlers, as Python at its end."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
