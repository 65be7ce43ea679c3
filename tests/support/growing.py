"""A run folder that grows as that of a run in progress does, a second of its clock at a time."""

import os
from pathlib import Path

from testbed.analysis.summarize import collect
from testbed.plan.model import Change, Network, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    FirstOperation,
    LinkSample,
    NetworkChange,
    Operation,
    OperationsTotal,
    RunEnded,
    StageBegan,
    StageEnded,
    append,
)
from testbed.runfolder.status import Status, write_status
from tests.support.synthetic import GBIT, MS, START_NS, three_dcs, write_round_trips

EVENT_TEXT = "east-north is down"
PER_SECOND = 4  # operations
SAMPLES = 10  # of a direction in a second


def with_outage(network: Network, at_s: int = 2) -> Network:
    """Return the network with a change, after which the link east-north has another delay."""
    link = network.wan[0]
    slow = []
    for direction in link.directions:
        fibre = direction.fibre.model_copy(update={"delay_ns": 50 * MS})
        slow.append(direction.model_copy(update={"fibre": fibre}))
    change = Change(at_ns=at_s * GBIT, what=(EVENT_TEXT,), links=(link.with_directions(*slow),))
    return network.model_copy(update={"changes": (change,)})


class GrowingRun:
    """A run of collectives; every call writes what happens in some time."""

    def __init__(self, path: Path, plan: Plan, seconds: int = 6) -> None:
        self.run = RunDir.create(path)
        self.plan = plan
        self.seconds = seconds
        self.second = 0
        self.run.spec.write_text("name: hand-made\n---\nworkload: collectives\n")
        self.status = Status(pid=os.getpid(), command=["testbed", "run", "hand-made"])
        write_status(self.run.status, self.status)

    def start(self) -> None:
        """Write the plan and the stages before the operations."""
        run = self.run
        run.write_plan(self.plan)
        for number, stage in enumerate(("network", "workers", "import")):
            began_ns = START_NS - (10 - number) * GBIT
            append(run.events, StageBegan(stage=stage, time_ns=began_ns))
            append(run.events, StageEnded(stage=stage, time_ns=began_ns + GBIT))
        append(run.events, StageBegan(stage="ops", time_ns=START_NS))
        total = self.seconds * PER_SECOND
        append(run.events, OperationsTotal(total=total, unit="operation"))
        append(run.events, FirstOperation(time_ns=START_NS))
        write_round_trips(run, self.plan)

    def go_on(self) -> None:
        """Write the operations and samples of the next second, and the change that is due."""
        begin_ns = START_NS + self.second * GBIT
        for number, change in enumerate(self.plan.network.changes):
            if begin_ns <= START_NS + change.at_ns < begin_ns + GBIT:
                due_ns = START_NS + change.at_ns
                record = NetworkChange(number=number, due_ns=due_ns, time_ns=due_ns)
                append(self.run.changes, record)
        self._write_samples(begin_ns)
        for number in range(PER_SECOND):
            self._write_operation(begin_ns + number * GBIT // PER_SECOND)
        self.second += 1

    def _write_samples(self, begin_ns: int) -> None:
        for number in range(SAMPLES):
            for index, link in enumerate(self.plan.network.wan):
                for side, direction in enumerate(link.directions):
                    sent = self.second * SAMPLES + number
                    sample = LinkSample(
                        time_ns=begin_ns + number * GBIT // SAMPLES,
                        source=direction.source,
                        target=direction.target,
                        link=link.key,
                        bytes=sent * 3_500_000 * (index + 1) // (side + 1),
                        packets=sent,
                        drops=0,
                        backlog_bytes=1000 * (number * 37 % 11),
                    )
                    append(self.run.link_samples, sample)

    def _write_operation(self, start_ns: int) -> None:
        count = self.second * PER_SECOND + start_ns % GBIT * PER_SECOND // GBIT
        ranks = self.plan.workers.ranks
        for rank in ranks:
            late_ns = 6 * MS * rank.rank
            operation = Operation(
                op="all_reduce" if count % 2 else "broadcast",
                bytes=1 << 20,
                group_size=len(ranks),
                iteration=count,
                phase="measure",
                dtype="float32",
                start_ns=start_ns + late_ns,
                end_ns=start_ns + 200 * MS,
                wrong=0,
            )
            append(self.run.rank_ops(rank.rank), operation)
        with self.run.rank_log(0).open("a") as log:
            log.write(f"operation {count} is done\n")

    def end(self) -> None:
        """End the run: tables, summary and status."""
        append(self.run.events, RunEnded(state="completed", time_ns=START_NS + self.second * GBIT))
        collect(self.run)
        completed = {"state": "completed", "exit_status": 0, "measured": True, "wall_seconds": 7.5}
        write_status(self.run.status, self.status.model_copy(update=completed))


def growing_plan_network() -> Network:
    """Return three datacenters whose first link changes after two seconds."""
    return with_outage(three_dcs())
