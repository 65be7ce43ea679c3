"""Record every torch.distributed operation of this process, from any code that starts one.

Python's ``dist.*``, DDP's reducer in C++, FSDP and functional collectives all end in the operators
``c10d::*`` of torch's dispatcher. Each operator gets a kernel in front of the backend's kernel. The
new kernel takes the time, calls the backend's kernel, and notes the end when the backend's thread
completes the work, even if no code waits for the work.

If the backend gives no future (gloo: sends, receives, reduce-scatters into one tensor), a thread
waits for the work, and the caller waits for that thread, because gloo reports such an end only
once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import ProcessGroup, Work

from testbed.core.compat.torch_dispatcher import (
    DispatcherHooks,
    call_backend,
    member_ranks,
    process_group,
    tensor_bytes,
)
from testbed.core.compat.torch_process_groups import (
    note_store_prefixes,
    store_address,
    store_prefix,
)
from testbed.core.units import format_ranks
from testbed.runfolder.records import GLOO, NCCL, Operation
from testbed.workers.gpu.labels import OperationKind, label_work
from testbed.workers.tcp_watch import Snapshot, TcpWatch

Record = Callable[[Operation], None]


class Operator(NamedTuple):
    """How to record an operator of the dispatcher; sizes as in workloads/collectives/catalog.py.

    Attributes:
        op: name of the operation.
        tensors: position of the argument whose tensors give the size.
        is_part: whether that argument is one rank's part of the whole.
        root: position of the argument that is the root's number in the group.
        in_parts: whether that argument's tensors are the parts of the ranks, in their order.
        splits: position of the argument that says how many rows of that tensor go to each rank.
        peer: position of the argument that is the other rank's number in the group.
        tag: position of the argument that is the tag of the message.
    """

    op: str
    tensors: int
    is_part: bool = False
    root: int | None = None
    in_parts: bool = False
    splits: int | None = None
    peer: int | None = None
    tag: int | None = None


OPERATORS = {
    "allreduce_": Operator("all_reduce", 0),
    "allreduce_coalesced_": Operator("all_reduce", 0),
    "broadcast_": Operator("broadcast", 0, root=2),
    "reduce_": Operator("reduce", 0, root=3),
    "allgather_": Operator("all_gather", 0, in_parts=True),
    "allgather_coalesced_": Operator("all_gather", 0),
    "_allgather_base_": Operator("all_gather", 0),
    "allgather_into_tensor_coalesced_": Operator("all_gather", 0),
    "reduce_scatter_": Operator("reduce_scatter", 1, in_parts=True),
    "_reduce_scatter_base_": Operator("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": Operator("reduce_scatter", 1),
    "alltoall_": Operator("all_to_all", 1, in_parts=True),
    "alltoall_base_": Operator("all_to_all", 1, splits=4),
    "gather_": Operator("gather", 1, is_part=True, root=3),
    "scatter_": Operator("scatter", 0, is_part=True, root=3),
    "send": Operator("send", 0, peer=2, tag=3),
    "recv_": Operator("recv", 0, peer=2, tag=3),
    "recv_any_source_": Operator("recv", 0, tag=2),
    "barrier": Operator("barrier", 0),
    "monitored_barrier_": Operator("barrier", 0),
}
MESSAGES = ("send", "recv")
SETTLING_S = 0.0001


NO_DESCRIPTION = ("undefined", "default_pg")  # torch's for groups that the script describes not


def _nothing() -> None:
    return None


class _Group:
    """What the records say of a process group, and the operations that it has begun."""

    def __init__(self, group: ProcessGroup, run_ranks: int) -> None:
        self.size = group.size()
        self.rank = group.rank()
        self.counts: Counter[str] = Counter()
        self.description = ""
        if group.group_desc not in NO_DESCRIPTION:
            self.description = group.group_desc

        # Another group may get the same name later, after the process groups were destroyed.
        members = member_ranks(group)
        self.name = f"{group.group_name}:{format_ranks(members)}"

        # Groups of other ranks may have the same name and the same numbers of ranks at this time.
        is_in_one_world = members and dist.get_world_size() == run_ranks
        if not is_in_one_world:
            self.name = f"{store_address(group)}/{self.name}"
        if not members:
            self.name += store_prefix(group)


class Interception:
    """Recorder of each operation of this process at the operation's end, until `close`.

    The iteration of a record counts that operation in its process group on this rank, from 0.
    """

    def __init__(
        self,
        record: Record,
        phase: str,
        run_ranks: int,
        begin: Callable[[], None] = _nothing,
    ) -> None:
        """Start recording.

        Args:
            record: called at the end of each operation, by the thread that ends the operation.
            phase: phase of the records.
            run_ranks: ranks of the run.
            begin: called before each operation.
        """
        self._record = record
        self._phase = phase
        self._run_ranks = run_ranks
        self._begin = begin
        self._groups: WeakKeyDictionary[ProcessGroup, _Group] = WeakKeyDictionary()
        self._pending: set[torch.futures.Future[Any]] = set()
        self._on_streams: set[torch.futures.Future[Any]] = set()
        self._hooks = DispatcherHooks()
        self._watch = TcpWatch()
        note_store_prefixes()

        for name, operator in OPERATORS.items():
            self._hooks.add(name, partial(self._call, operator))

    def close(self) -> None:
        """Stop recording after all finished operations are recorded."""
        self.settle()
        self._hooks.close()

    def settle(self) -> None:
        """Wait until all finished operations are recorded.

        A thread that waits for a future wakes before the future's callbacks have run. If the
        backend's threads ask for the interpreter's lock while the interpreter ends, the process
        aborts.
        """
        while self._on_streams:  # a script may end before the streams of its GPUs
            time.sleep(SETTLING_S)

        time.sleep(SETTLING_S)
        while any(future.done() for future in list(self._pending)):
            time.sleep(SETTLING_S)

    def _call(self, operator: Operator, overload: Any, *arguments: Any, **options: Any) -> Any:
        """Call the backend's kernel of `overload`, and record the end of its work."""
        tensors = _tensors(arguments[operator.tensors])
        self._begin()
        group = self._group(process_group(arguments))
        before = None if operator.op in MESSAGES else self._watch.snapshot()
        start_ns = time.time_ns()
        result = call_backend(overload, tensors[0], *arguments, **options)
        operation = self._operation(operator, tensors, arguments, group, start_ns)
        done = partial(self._done, operation, before)
        if result is None:  # a monitored barrier has ended already
            done()
            return None

        if not isinstance(result, tuple):
            return self._followed(result, operation, group, done)

        outputs, boxed_work = result
        return outputs, self._followed(boxed_work, operation, group, done)

    def _followed(
        self, boxed_work: Any, operation: Operation, group: _Group, done: Callable[[], None]
    ) -> Any:
        """Record `operation` at the end of a work, and return the boxed work for the caller."""
        work: Any = Work.unbox(boxed_work)
        if hasattr(work, "ended"):  # of a modelled GPU: its future only orders streams
            kind = OperationKind(operation.op, operation.process_group, operation.peer)
            label_work(work, kind)
            algorithm = GLOO if work.uses_gloo() else NCCL
            operation = operation.model_copy(update={"algorithm": algorithm})
            if work.is_captured():  # by a CUDA graph, whose replays run the operation
                group.counts[operation.op] -= 1
                work.on_replay(partial(self._replayed, operation, group))
            else:
                self._follow_stream(operation, work.ended())

            return boxed_work

        try:
            future = work.get_future()
        except RuntimeError:  # the backend has no future for this operation
            return _Awaited(work, done).boxed()

        self._pending.add(future)
        future.add_done_callback(partial(self._completed, future, done))
        return boxed_work

    def _operation(
        self,
        operator: Operator,
        tensors: list[torch.Tensor],
        arguments: tuple[Any, ...],
        group: _Group,
        start_ns: int,
    ) -> Operation:
        """Return the record of an operation that has started."""
        iteration = group.counts[operator.op]
        group.counts[operator.op] += 1
        size = 0
        dtype = ""
        if operator.op != "barrier":  # the tensor of a barrier only names the device
            size = sum(tensor_bytes(tensor) for tensor in tensors)
            dtype = str(tensors[0].dtype).removeprefix("torch.")

        if operator.is_part:
            size *= group.size

        root = None if operator.root is None else int(arguments[operator.root])
        peer = None if operator.peer is None else int(arguments[operator.peer])
        tag = 0 if operator.tag is None else int(arguments[operator.tag])
        return Operation(
            op=operator.op,
            bytes=size,
            group_size=group.size,
            iteration=iteration,
            phase=self._phase,
            dtype=dtype,
            start_ns=start_ns,
            end_ns=start_ns,
            group=group.description,
            process_group=group.name,
            group_rank=group.rank,
            root=root,
            parts=_unequal_parts(operator, tensors, arguments, group.size),
            peer=peer,
            tag=tag,
        )

    def _group(self, group: ProcessGroup) -> _Group:
        known = self._groups.get(group)
        if known is None:
            known = _Group(group, self._run_ranks)
            self._groups[group] = known
            self._watch.look_for_connections()

        return known

    def _completed(
        self,
        pending: torch.futures.Future[Any],
        done: Callable[[], None],
        future: torch.futures.Future[Any],
    ) -> None:
        try:
            future.value()
            done()
        except RuntimeError:  # the operation failed: the caller that waits gets the error
            pass
        finally:
            self._pending.discard(pending)

    def _follow_stream(self, operation: Operation, ended: torch.futures.Future[Any]) -> None:
        """Record an operation when a stream of a modelled GPU has carried it out."""
        self._on_streams.add(ended)
        ended.add_done_callback(partial(self._ended_on_stream, ended, operation))

    def _replayed(
        self, operation: Operation, group: _Group, ended: torch.futures.Future[Any]
    ) -> None:
        """Record an operation that a CUDA graph begins again."""
        self._begin()
        iteration = group.counts[operation.op]
        group.counts[operation.op] += 1
        self._follow_stream(operation.model_copy(update={"iteration": iteration}), ended)

    def _ended_on_stream(
        self,
        pending: torch.futures.Future[Any],
        operation: Operation,
        future: torch.futures.Future[list[int]],
    ) -> None:
        """Record an operation that a stream of a modelled GPU has carried out."""
        start_ns, end_ns = future.value()
        times = {"start_ns": start_ns, "end_ns": end_ns}
        self._record(operation.model_copy(update=times))
        self._on_streams.discard(pending)

    def _done(self, operation: Operation, before: Snapshot | None) -> None:
        end_ns = time.time_ns()
        self._record(operation.ended(end_ns, self._watch.use_since(before)))


class _Awaited(Work):
    """A work that a thread waits for, in place of the backend's work."""

    # C++ holds the work but not this Python object, which has the work's methods.
    _pending: set[_Awaited] = set()  # noqa: RUF012

    def __init__(self, work: Work, done: Callable[[], None]) -> None:
        super().__init__()
        self._work = work
        self._call_done = done
        self._error: BaseException | None = None
        self._over = threading.Event()
        # a reduce-scatter's wait writes to its output
        self._inference = torch.is_inference_mode_enabled()
        self._pending.add(self)
        threading.Thread(target=self._await, daemon=True).start()

    def _await(self) -> None:
        try:
            with torch.inference_mode(self._inference), torch.no_grad():
                self._work.wait()

            self._call_done()
        except BaseException as error:  # raised again where the caller waits
            self._error = error

        self._over.set()

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """Wait as the work itself would; without `timeout`, the process group's timeout applies."""
        if not self._over.wait(timeout.total_seconds() or None):
            raise RuntimeError(f"the operation did not end within {timeout.total_seconds()} s")

        self._pending.discard(self)
        if self._error is not None:
            raise self._error

        return True

    def is_completed(self) -> bool:
        return self._over.is_set()

    def is_success(self) -> bool:
        return self._over.is_set() and self._error is None

    def synchronize(self) -> None:
        self.wait()

    def _source_rank(self) -> int:
        return self._work._source_rank()

    source_rank = _source_rank


def _unequal_parts(
    operator: Operator, tensors: list[torch.Tensor], arguments: tuple[Any, ...], ranks: int
) -> list[int] | None:
    """Return the bytes of each rank's part, or None if the parts are equal."""
    parts: list[int] = []
    if operator.in_parts:
        parts = [tensor_bytes(tensor) for tensor in tensors]

    if operator.splits is not None:
        (tensor,) = tensors
        rows = len(tensor) if tensor.dim() else 0
        row_bytes = tensor.nbytes // rows if rows else 0
        parts = [split * row_bytes for split in arguments[operator.splits]]

    if len(parts) != ranks or len(set(parts)) == 1:
        return None

    return parts


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return all tensors of a tensor, a list, or lists in a list."""
    if isinstance(value, torch.Tensor):
        return [value]

    tensors = []
    for part in value:
        tensors.extend(_tensors(part))

    return tensors
