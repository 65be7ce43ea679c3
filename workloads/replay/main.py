"""Replay the communication of a recorded trace, with its computation as modelled time.

    testbed run two-sites -- replay traces

Each rank carries out its program (programs.py) of the plan: it begins an item when the items
before have ended and its pause has passed. Operations are those of torch.distributed on gloo, with
the sizes of the trace and meaningless contents, and begin in the order of the trace. Computation
takes its recorded time and no CPU.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from testbed.runfolder.record_file import RecordFile
from testbed.runfolder.records import TrainingStep
from testbed.workers.dispatcher import Interception
from testbed.workers.lib.heap import populate_heap
from testbed.workers.workload import RankContext

from .operations import Operations
from .programs import Program, ProgramItem

RECORDS_ITSELF = True
PHASE, TRAINING_PHASE = "script", "train"
NS_PER_S = 10**9
LEAST_WAIT_NS = 1000  # Python waits for whole microseconds
LONGER = 4  # than a barrier takes: an all-reduce of a number
BEGINS, ENDS = 0, 1  # of what the player waits for


class Player:
    """Carries out the program of this rank."""

    def __init__(self, program: Program, operations: Operations) -> None:
        """Prepare.

        Args:
            program: what to do.
            operations: starts the operations.
        """
        self._program = program
        self._operations = operations
        self._missing = [len(item["after"]) for item in program]
        self._followers: list[list[int]] = [[] for _item in program]
        self._to_issue = [number for number, item in enumerate(program) if "op" in item]
        self._next_issue = 0
        self._may_begin: set[int] = set()
        self._coming: list[tuple[int, int, int]] = []  # time, number, begin or end; a heap
        # Not SimpleQueue, whose get() hangs in Python 3.11 if its timeout passes at once.
        self._over: queue.Queue[tuple[int, int, BaseException | None]] = queue.Queue()
        self._left = len(program)
        self.begins_ns = [0] * len(program)
        self.ends_ns = [0] * len(program)
        for number, item in enumerate(program):
            for other in item["after"]:
                self._followers[other].append(number)

    def play(self) -> None:
        """Carry out the program; its times are those of time.monotonic_ns().

        Raises:
            RuntimeError: an operation failed.
        """
        now_ns = time.monotonic_ns()
        for number, missing in enumerate(self._missing):
            if not missing:
                self._ready(number, now_ns)
        while self._left:
            self._do_what_is_due()
            if self._left:
                self._wait()

    def _ready(self, number: int, time_ns: int) -> None:
        """Plan the begin of an item that waits for no other item any more."""
        begin_ns = time_ns + self._program[number].get("pause_ns", 0)
        heapq.heappush(self._coming, (begin_ns, number, BEGINS))

    def _do_what_is_due(self) -> None:
        while self._coming and self._coming[0][0] <= time.monotonic_ns():
            time_ns, number, what = heapq.heappop(self._coming)
            item = self._program[number]
            if what == ENDS:
                self._end(number, time_ns)
            elif "op" in item:
                self._may_begin.add(number)
                self._issue()
            else:
                self.begins_ns[number] = time_ns
                heapq.heappush(self._coming, (time_ns + item["compute_ns"], number, ENDS))

    def _issue(self) -> None:
        """Start the operations that may begin, in the order of the program."""
        while self._next_issue < len(self._to_issue):
            number = self._to_issue[self._next_issue]
            if number not in self._may_begin:
                return
            self._may_begin.remove(number)
            self._next_issue += 1
            self.begins_ns[number] = time.monotonic_ns()
            work = self._operations.start(self._program[number])
            threading.Thread(target=self._await, args=(number, work), daemon=True).start()

    def _await(self, number: int, work: dist.Work | None) -> None:
        """Wait for an operation in a thread."""
        error: BaseException | None = None
        try:
            if work is not None:
                work.wait()
        except BaseException as failure:  # raised again by the player
            error = failure
        self._over.put((number, time.monotonic_ns(), error))

    def _wait(self) -> None:
        """Wait until an operation ends, or an item begins or ends."""
        timeout_s = None
        if self._coming:
            left_ns = max(0, self._coming[0][0] - time.monotonic_ns())
            timeout_s = -(-left_ns // LEAST_WAIT_NS) * LEAST_WAIT_NS / NS_PER_S
        with contextlib.suppress(queue.Empty):
            number, time_ns, error = self._over.get(timeout=timeout_s)
            if error is not None:
                raise error
            self._end(number, time_ns)

    def _end(self, number: int, time_ns: int) -> None:
        self.ends_ns[number] = time_ns
        self._left -= 1
        for follower in self._followers[number]:
            self._missing[follower] -= 1
            if not self._missing[follower]:
                self._ready(follower, time_ns)


def main(context: RankContext) -> None:
    """Replay the trace of this rank."""
    programs = context.settings["programs"]
    program: Program = programs[context.rank if len(programs) > 1 else 0]
    timeout = timedelta(seconds=context.plan.workers.timeout_s)
    operations = Operations(program, context.settings["groups"], timeout)
    populate_heap(operations.copied_bytes)
    has_steps = any("step" in item for item in program)
    begin_together()
    context.recorder.expect(sum("op" in item for item in program))
    unix_ns = time.time_ns() - time.monotonic_ns()
    player = Player(program, operations)
    phase = TRAINING_PHASE if has_steps else PHASE
    interception = Interception(context.recorder.record, phase, context.world_size)
    try:
        player.play()
    finally:
        interception.close()

    with contextlib.closing(RecordFile(context.run, context.run.rank_train(context.rank))) as file:
        for step in training_steps(program, player, unix_ns):
            file.write(step)


def begin_together() -> None:
    """Wait until a time that all ranks agree on, because traces begin at the same time.

    All hosts have the clock of one machine.
    """
    before_ns = time.time_ns()
    dist.barrier()
    took_ns = time.time_ns() - before_ns
    begin_ns = torch.tensor(time.time_ns() + LONGER * took_ns)
    dist.all_reduce(begin_ns, dist.ReduceOp.MAX)
    time.sleep(max(0, int(begin_ns) - time.time_ns()) / NS_PER_S)


def training_steps(program: Program, player: Player, unix_ns: int) -> Iterator[TrainingStep]:
    """Yield the records of the training steps that have run.

    A step begins with its first item, and ends where the next one begins; the last ends with the
    program. A program that knows no steps is one step.

    Args:
        program: the program.
        player: has carried the program out.
        unix_ns: Unix time in ns at the time 0 of the player.
    """
    items_of: dict[int, list[int]] = {}
    for number, item in enumerate(program):
        if "step" in item:
            items_of.setdefault(item["step"], []).append(number)
    if not items_of:
        items_of[0] = list(range(len(program)))
    begins_ns: dict[int, int] = {}
    for step, numbers in items_of.items():
        begins_ns[step] = min(player.begins_ns[number] for number in numbers)
    in_order = sorted(begins_ns, key=lambda step: begins_ns[step])
    for place, step in enumerate(in_order):
        is_last = place == len(in_order) - 1
        end_ns = max(player.ends_ns) if is_last else begins_ns[in_order[place + 1]]
        spans = _spans(program, player, items_of[step])
        edges: list[int] = []
        for begin_ns, stop_ns in spans:
            edges += [unix_ns + begin_ns, unix_ns + stop_ns]
        yield TrainingStep(
            step=step,
            start_ns=unix_ns + begins_ns[step],
            end_ns=unix_ns + end_ns,
            compute_ns=sum(end - begin for begin, end in spans),
            late_ns=0,
            tokens=0,
            computed_ns=edges,
        )


def _spans(program: Program, player: Player, numbers: list[int]) -> list[list[int]]:
    """Return begin and end of stretches of computation, of which none overlap."""
    computed = [number for number in numbers if _is_computation(program[number])]
    spans: list[list[int]] = []
    for number in sorted(computed, key=lambda number: player.begins_ns[number]):
        begin_ns, end_ns = player.begins_ns[number], player.ends_ns[number]
        if spans and begin_ns <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end_ns)
        else:
            spans.append([begin_ns, end_ns])
    return spans


def _is_computation(item: ProgramItem) -> bool:
    return "compute_ns" in item
