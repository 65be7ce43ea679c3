"""Exact timers: disable the kernel's timer slack."""

from __future__ import annotations

from testbed.core import linux


def exact_timers() -> None:
    """Let the calling thread's sleeps end when due.

    By default the kernel may delay a thread's timers by 50 us, to serve several timers at once: in
    a guest, those of other hosts. Threads and processes inherit the setting from this thread.
    """
    linux.prctl(linux.PR_SET_TIMERSLACK, 1)
