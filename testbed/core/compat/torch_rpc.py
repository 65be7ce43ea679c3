"""Keep torch's RPC (TensorPipe) from polling shared memory, which lets no virtual time pass.

TensorPipe's transport `shm` and its channel `cma` have threads that call sched_yield() until the
other process has written to memory that both share. They apply only between processes of one host.
Between hosts TensorPipe uses what is left here: TCP with epoll (`uv`), and channels on top of it.
On one host these cost no virtual time either, as copying does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

CHECKED = {"torch": ("2.13",)}
TRANSPORTS = ("uv",)
CHANNELS = ("mpt_uv", "basic")


def without_polling(initialise: Callable[..., None]) -> Callable[..., None]:
    """Return `TensorPipeRpcBackendOptions.__init__` with defaults that do not poll.

    Args:
        initialise: torch's function.
    """

    @functools.wraps(initialise)
    def with_defaults(
        options: object,
        *,
        _transports: Sequence[str] | None = None,
        _channels: Sequence[str] | None = None,
        **others: Any,
    ) -> None:
        transports = list(_transports or TRANSPORTS)
        channels = list(_channels or CHANNELS)
        initialise(options, _transports=transports, _channels=channels, **others)

    return with_defaults
