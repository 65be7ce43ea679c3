"""Records of operations, written by each rank as they end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Literal

from testbed.runfolder.folder import RunDir, append_record


@dataclass(frozen=True)
class Operation:
    """A row of ops.parquet without rank, host and datacenter. Times are Unix ns (`time.time_ns`) of
    the run's clock.
    """

    op: str
    bytes: int
    group_size: int
    iteration: int
    phase: str  # warmup | measure, or of what `testbed.workers.dispatcher` records: train | script
    dtype: str
    start_ns: int
    end_ns: int
    wrong: int = -1  # elements with a wrong value; -1: not checked
    group: str = (
        ""  # the name of the group among those that work at the same time; empty: there is only one
    )
    algorithm: str = "gloo"  # gloo | hierarchical

    def ended(self, end_ns: int) -> Operation:
        """The same, with its end."""
        return replace(self, end_ns=end_ns)


class Recorder:
    """Writes the operations of one rank."""

    def __init__(self, run: RunDir, rank: int) -> None:
        self._rank = rank
        self._run = run
        self._file = run.rank_ops(rank).open(
            "ab", buffering=0
        )  # a line is one write, from whichever thread
        self._begun = False

    def expect(self, total: int, unit: Literal["operation", "step"] = "operation") -> None:
        """Tell how many operations or training steps begin now on this rank; rank 0's number shows
        progress.
        """
        self.begin()
        if self._rank == 0:
            append_record(
                self._run.events, {"stage": "ops", "state": "total", "total": total, "unit": unit}
            )

    def begin(self) -> None:
        """The first operation or step of this rank begins; from that of rank 0 on the network's
        changes count.
        """
        if self._rank == 0 and not self._begun:
            append_record(
                self._run.events, {"stage": "ops", "state": "first", "time_ns": time.time_ns()}
            )
        self._begun = True

    def record(self, operation: Operation) -> None:
        """Write one operation; it survives whatever happens to the rank afterwards."""
        self._file.write((json.dumps(asdict(operation)) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
