"""Records of operations, written by each rank as operations end."""

from __future__ import annotations

import time
from typing import Literal

from testbed.runfolder.folder import RunDir
from testbed.runfolder.record_file import RecordFile
from testbed.runfolder.records import (
    FirstOperation,
    GpuRecord,
    Operation,
    OperationsTotal,
    append,
)


class Recorder:
    """Writer of one rank's operations."""

    def __init__(self, run: RunDir, rank: int) -> None:
        self.rank = rank
        self._run = run
        self._file = RecordFile(run, run.rank_ops(rank))
        self._gpu_file: RecordFile | None = None
        self._begun = False

    def claim(self) -> bool:
        """Claim the rank until this process ends; return whether no other process has the rank."""
        return self._file.claim()

    def expect(self, total: int, unit: Literal["operation", "step"] = "operation") -> None:
        """Announce the number of operations or steps of this rank; rank 0's number shows progress.

        Args:
            total: number of operations or steps that will be recorded.
            unit: what `total` counts.
        """
        self.begin()
        if self.rank == 0:
            append(self._run.events, OperationsTotal(total=total, unit=unit))

    def begin(self) -> None:
        """Begin this rank's first operation or step; rank 0's starts the network's changes."""
        if self.rank == 0 and not self._begun:
            append(self._run.events, FirstOperation(time_ns=time.time_ns()))

        self._begun = True

    def record(self, operation: Operation) -> None:
        """Write one operation; the record survives a later crash of the rank."""
        self._file.write(operation)

    def record_gpu(self, record: GpuRecord) -> None:
        """Write a record of a modelled GPU."""
        if self._gpu_file is None:
            self._gpu_file = RecordFile(self._run, self._run.rank_gpu(self.rank))

        self._gpu_file.write(record)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._gpu_file is not None:
            self._gpu_file.close()
