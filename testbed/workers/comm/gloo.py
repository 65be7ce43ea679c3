"""gloo: TCP connections between all pairs of ranks, buffers in main memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

NAME = "gloo"
MIB = 2**20


@dataclass(frozen=True)
class Gloo:
    """gloo as built into torch (docs/collectives.md lists gloo's capabilities and limits)."""

    name: str = NAME
    dtypes: frozenset[str] = frozenset(
        {"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64"}
    )
    operations: frozenset[str] = frozenset(
        {
            "all_reduce",
            "all_gather",
            "reduce_scatter",
            "all_to_all",
            "broadcast",
            "reduce",
            "gather",
            "scatter",
            "send_recv",
            "barrier",
        }
    )
    whole_copies: Mapping[str, int] = field(
        default_factory=lambda: {"all_gather": 2, "reduce_scatter": 2, "gather": 2}
    )
    extra_buffer_bytes: int = 4 * MIB  # measured: less than 2 MiB, of sizes up to 128 MiB

    def environment(self, interface: str, connections: int) -> dict[str, str]:
        """Return variables that name the interface once per connection of a pair of ranks."""
        return {"GLOO_SOCKET_IFNAME": ",".join([interface] * connections)}

    def init_process_group(self, timeout: timedelta) -> None:
        """Join the default process group."""
        import torch.distributed as dist  # noqa: PLC0415  # settings of workloads need no torch

        dist.init_process_group(self.name, timeout=timeout)
