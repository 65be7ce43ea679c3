"""Timers that go off when they are due."""

from __future__ import annotations

from testbed.core import linux


def exact_timers() -> None:
    """Let the calling thread sleep no longer than asked for.

    By default the kernel may delay a thread's timers by 50 us, to serve several at once.
    """
    linux.prctl(linux.PR_SET_TIMERSLACK, 1)
