"""Hold back the signals that end a command while a result is written.

with HeldSignals() as signals:
    try:
        with signals.raised():
            work()  # the first Ctrl-C raises KeyboardInterrupt here
    finally:
        commit()    # a second Ctrl-C waits until the next `raised` block, or the end
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
Handler = Callable[[int, FrameType | None], Any]


class HeldSignals:
    """Block within which the handlers of `SIGNALS` run only inside of `raised`.

    A handler that raises an exception holds back further signals at once, so no second signal can
    interrupt what handles the exception. Signals that the process ignores, and signals whose
    default action is in force, are left alone. In threads other than the main thread, in which
    Python handles no signals, the block does nothing.
    """

    def __init__(self) -> None:
        self._is_held = True
        self._waiting: int | None = None
        self._handlers: dict[int, Handler] = {}

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the handlers, and run that of a signal that waits, unless an error ends all."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if error is None:
            self._run_waiting()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Let the handlers run within the block, first for a signal that waits."""
        self._run_waiting()
        self._is_held = False
        try:
            yield
        finally:
            self._is_held = True

    def _run_waiting(self) -> None:
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._handlers[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_held:
            self._waiting = number
            return
        self._is_held = True
        self._handlers[number](number, frame)
        self._is_held = False
