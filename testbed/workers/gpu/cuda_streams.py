"""Bases of `torch.cuda.Stream` and `torch.cuda.Event`, whose work native/timeline.cpp does."""

from __future__ import annotations

from typing import Any, Self

import torch

from testbed.workers.gpu.device_library import check_cuda, device_library


class CudaStreamBase(torch.Stream):
    """As `torch._C._CudaStreamBase`."""

    def __new__(cls, priority: int = 0, stream_ptr: int = 0, **identity: int) -> Self:
        """Return a new stream, or the stream with the given identity."""
        if stream_ptr:
            raise RuntimeError("the modelled GPU has no streams of other libraries")

        if identity:
            return super().__new__(cls, **identity)

        return super().__new__(cls, device="cuda", priority=priority)

    @property
    def cuda_stream(self) -> int:
        """Handle of the stream."""
        return self.stream_id

    @property
    def priority(self) -> int:
        """Priority of the stream, which has no effect."""
        return 0

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """Return the least and the greatest priority."""
        return 0, -5


class CudaEventBase(torch.Event):
    """As `torch._C._CudaEventBase`."""

    def __new__(cls, **options: Any) -> Self:
        """Return a new event."""
        if options.pop("interprocess", False):
            raise RuntimeError("the modelled GPU has no events between processes")

        options.pop("external", None)
        blocking = options.pop("blocking", False)
        timing = options.pop("enable_timing", False)
        return super().__new__(cls, device="cuda", enable_timing=timing, blocking=blocking)

    @property
    def cuda_event(self) -> int:
        """Handle of the event."""
        return self.event_id

    def elapsed_time(self, end_event: torch.Event) -> float:
        """Return the milliseconds from this event to another one.

        `torch.Event.elapsed_time` takes no subclass.
        """
        if not self.event_id or not end_event.event_id:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")

        milliseconds: float = device_library().testbed_elapsed_ms(self.event_id, end_event.event_id)
        check_cuda(-int(min(milliseconds, 0)))
        return milliseconds
