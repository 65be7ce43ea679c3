"""Problems of a run: a code for programs and a message for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class ProblemCode(StrEnum):
    """What kind of problem it is."""

    # Something of the run folder is missing or damaged, or figures cannot be made of it.
    FILE_MISSING = "file-missing"
    FILE_DAMAGED = "file-damaged"
    RECORDS_LEFT_OUT = "records-left-out"
    NO_RECORDS = "no-records"
    NO_BOUNDS = "no-bounds"
    STAGE_UNFINISHED = "stage-unfinished"
    CAPTURE = "capture"  # a packet capture lacks packets or cannot be read
    FILE_REMOVED = "file-removed"  # what a host put into the run folder was removed
    SEPARATE_HOSTS = "separate-hosts"  # a script's hosts did not communicate
    OVERLAP_SHORT = "overlap-short"  # exchanges take longer than the overlap that is to hide them
    VALUE_DECIDED = "value-decided"  # a script's path depended on the value of a modelled tensor
    JOB_NOT_ALONE = "job-not-alone"  # one of several jobs could not be measured alone
    # The run is not faithful to its plan.
    INCOMPLETE = "incomplete"
    CLOCK_FORCED = "clock-forced"
    MEMORY_SHORT = "memory-short"
    PACKETS_HASTY = "packets-hasty"
    EVENTS_NOT_HAPPENED = "events-not-happened"
    ROUND_TRIP = "round-trip"
    OFFLOAD_DROPS = "offload-drops"
    RATE = "rate"
    COMPUTE_LATE = "compute-late"
    CPU_BUSY = "cpu-busy"
    CPU_STEAL = "cpu-steal"
    TIMERS_LATE = "timers-late"
    HOST_THROTTLED = "host-throttled"
    BACKLOG_DROPS = "backlog-drops"
    FIBRE_DROPS = "fibre-drops"
    RECORDS_INCOMPLETE = "records-incomplete"
    RECORDS_REFUSED = "records-refused"  # a host wrote what it may not write
    CLOCK_DISORDERED = "clock-disordered"
    BELOW_BOUND = "below-bound"  # an operation took less time than the topology allows
    # Read from a run folder of format 2, whose problems have no codes.
    UNKNOWN = "unknown"


# Short phrases for tables and one-line reports, of the codes that make a run not faithful.
DOUBTS: Mapping[ProblemCode, str] = {
    ProblemCode.INCOMPLETE: "did not complete",
    ProblemCode.CLOCK_FORCED: "a process busy-waited",
    ProblemCode.MEMORY_SHORT: "the kernel had no memory for packets",
    ProblemCode.PACKETS_HASTY: "packets overtook the clock of a guest",
    ProblemCode.EVENTS_NOT_HAPPENED: "events did not happen",
    ProblemCode.ROUND_TRIP: "round trips differ from the plan",
    ProblemCode.OFFLOAD_DROPS: "queues dropped super-packets",
    ProblemCode.RATE: "a link was slower than planned",
    ProblemCode.COMPUTE_LATE: "computing took longer than modelled",
    ProblemCode.CPU_BUSY: "the CPU was the limit",
    ProblemCode.CPU_STEAL: "the hypervisor withheld the CPU",
    ProblemCode.TIMERS_LATE: "timers were late",
    ProblemCode.HOST_THROTTLED: "a host was throttled",
    ProblemCode.BACKLOG_DROPS: "the kernel's backlog overflowed",
    ProblemCode.FIBRE_DROPS: "a lossless link dropped packets",
    ProblemCode.RECORDS_INCOMPLETE: "records of ranks are missing",
    ProblemCode.RECORDS_REFUSED: "a host wrote false records",
    ProblemCode.CLOCK_DISORDERED: "records have impossible times",
    ProblemCode.BELOW_BOUND: "an operation was faster than the topology allows",
    ProblemCode.UNKNOWN: "see the warnings of the run",
}


class Problem(BaseModel):
    """One problem, as in `problems` of summary.json and `warnings` of status.json.

    Attributes:
        code: For programs.
        message: For people.
    """

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    code: ProblemCode
    message: str

    @model_validator(mode="before")
    @classmethod
    def _from_format_2(cls, value: Any) -> Any:
        """Accept the plain text that format 2 has in place of a code and a message."""
        if isinstance(value, str):
            return {"code": ProblemCode.UNKNOWN, "message": value}
        return value

    def __str__(self) -> str:
        return self.message


def doubts(problems: Iterable[Problem]) -> list[str]:
    """Return a short phrase for each kind of problem that makes a run not faithful."""
    phrases: dict[str, None] = {}
    for problem in problems:
        if problem.code in DOUBTS:
            phrases[DOUBTS[problem.code]] = None
    return list(phrases)
