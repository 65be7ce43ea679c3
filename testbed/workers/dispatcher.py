"""Records every collective of torch.distributed in this process, whoever starts it.

Python's ``dist.*``, DDP's reducer in C++, FSDP and functional collectives all end in the operators
``c10d::*`` of the dispatcher of torch. Here each operator gets a kernel for the dispatch key
BackendSelect, which every call passes just before it reaches its backend, and for which these
operators have none of their own. It takes the time, calls the backend's kernel, and notes the end
when gloo's own thread completes the work, whether or not anybody waits for it.

What gloo gives no future for (sends, receives, reduce-scatters into one tensor) is awaited by a
thread of its own, and the caller waits for that thread: gloo can tell of such an end only once.
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
from torch._C._distributed_c10d import ProcessGroup, Work

from testbed.workers.recorder import Operation

Record = Callable[[Operation], None]


class Operator(NamedTuple):
    """How an operator of the dispatcher is recorded; the size is that of
    `testbed.analysis.lower_bounds`.
    """

    op: str
    tensors: int  # which argument makes the size
    parts: bool = False  # that argument is one rank's part of the whole


OPERATORS = {
    "allreduce_": Operator("all_reduce", 0),
    "allreduce_coalesced_": Operator("all_reduce", 0),
    "broadcast_": Operator("broadcast", 0),
    "reduce_": Operator("reduce", 0),
    "allgather_": Operator("all_gather", 0),
    "allgather_coalesced_": Operator("all_gather", 0),
    "_allgather_base_": Operator("all_gather", 0),
    "allgather_into_tensor_coalesced_": Operator("all_gather", 0),
    "reduce_scatter_": Operator("reduce_scatter", 1),
    "_reduce_scatter_base_": Operator("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": Operator("reduce_scatter", 1),
    "alltoall_": Operator("all_to_all", 1),
    "alltoall_base_": Operator("all_to_all", 1),
    "gather_": Operator("gather", 1, parts=True),
    "scatter_": Operator("scatter", 0, parts=True),
    "send": Operator("send", 0),
    "recv_": Operator("recv", 0),
    "recv_any_source_": Operator("recv", 0),
    "barrier": Operator("barrier", 0),
    "monitored_barrier_": Operator("barrier", 0),
}
SETTLING_S = 0.0001


class Interception:
    """While it lives, `record` is called at the end of each operation, from whichever thread ends
    it.

    `begin` is called before each. `iteration` of a record is the number of that operation in its
    process group on this rank, from 0.
    """

    def __init__(
        self, record: Record, phase: str, begin: Callable[[], None] = lambda: None
    ) -> None:
        self._record, self._phase, self._begin = record, phase, begin
        self._numbers: WeakKeyDictionary[ProcessGroup, Counter[str]] = WeakKeyDictionary()
        self._pending: set[torch.futures.Future[Any]] = set()
        self._library = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]
        for name, operator in OPERATORS.items():
            overload = getattr(torch.ops.c10d, name).default
            self._library.impl(name, partial(self._call, operator, overload), "BackendSelect")  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Let operators pass as before, once those that have ended are recorded."""
        self.settle()
        self._library._destroy()  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """Wait until all that has ended is recorded.

        Who waits for a future is woken before its callbacks have run, and gloo's threads must not
        come for the interpreter's lock once the interpreter is on its way to its end: then they end
        the process.
        """
        time.sleep(SETTLING_S)
        while any(future.done() for future in list(self._pending)):
            time.sleep(SETTLING_S)

    def _call(self, operator: Operator, overload: Any, *arguments: Any, **options: Any) -> Any:
        """Call the backend's kernel of `overload`, and record when its work is done."""
        tensors = _tensors(arguments[operator.tensors])
        self._begin()
        start_ns = time.time_ns()
        # A call by key gives up the interpreter's lock: gloo's threads may want it, and have what
        # the kernel waits for.
        result = overload._op_dk(_backend(tensors), *arguments, **options)
        done = partial(self._done, self._operation(operator, tensors, arguments, start_ns))
        if result is None:  # a monitored barrier: it is over
            done()
            return result
        outputs, boxed = result if isinstance(result, tuple) else (None, result)
        work = Work.unbox(boxed)
        try:
            future = work.get_future()
        except RuntimeError:  # not implemented
            boxed = _Awaited(work, done).boxed()
            return boxed if outputs is None else (outputs, boxed)
        self._pending.add(future)
        future.add_done_callback(partial(self._completed, future, done))
        return result

    def _operation(
        self,
        operator: Operator,
        tensors: list[torch.Tensor],
        arguments: tuple[Any, ...],
        start_ns: int,
    ) -> Operation:
        group = next(
            ProcessGroup.unbox(argument)
            for argument in arguments
            if isinstance(argument, torch.ScriptObject)
        )
        numbers = self._numbers.setdefault(group, Counter())
        numbers[operator.op] += 1
        data = operator.op != "barrier"  # which has a tensor to say where it is
        return Operation(
            op=operator.op,
            bytes=data * sum(map(_bytes, tensors)) * (group.size() if operator.parts else 1),
            group_size=group.size(),
            iteration=numbers[operator.op] - 1,
            phase=self._phase,
            dtype=str(tensors[0].dtype).removeprefix("torch.") if data else "",
            start_ns=start_ns,
            end_ns=start_ns,
        )

    def _completed(
        self,
        mine: torch.futures.Future[Any],
        done: Callable[[], None],
        future: torch.futures.Future[Any],
    ) -> None:
        try:
            future.value()
            done()
        except RuntimeError:  # the operation failed: whoever waits for it gets the error
            pass
        finally:
            self._pending.discard(mine)

    def _done(self, operation: Operation) -> None:
        self._record(operation.ended(time.time_ns()))


class _Awaited(Work):
    """Stands for a work that a thread waits for."""

    _pending: set[_Awaited] = set()  # noqa: RUF012  # C++ holds the work, but not this object, which has its methods

    def __init__(self, work: Work, done: Callable[[], None]) -> None:
        super().__init__()
        self._work, self._then = work, done
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._inference = (
            torch.is_inference_mode_enabled()
        )  # a reduce-scatter's wait writes to its output
        self._pending.add(self)
        threading.Thread(target=self._await, daemon=True).start()

    def _await(self) -> None:
        try:
            with torch.inference_mode(self._inference), torch.no_grad():
                self._work.wait()
            self._then()
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        self._over.set()

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """As the work's own; without `timeout` that of the process group holds."""
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


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a tensor, a list, or lists in a list."""
    return (
        [value]
        if isinstance(value, torch.Tensor)
        else [tensor for part in value for tensor in _tensors(part)]
    )


def _backend(tensors: list[torch.Tensor]) -> torch._C.DispatchKey:
    """The key of the kernel for `tensors`."""
    first = tensors[0]
    name = torch._C._dispatch_key_for_device(first.device.type)
    return torch._C.DispatchKey.__members__[f"Sparse{name}" if first.is_sparse else name]


def _bytes(tensor: torch.Tensor) -> int:
    if tensor.is_sparse:
        return tensor._values().nbytes + tensor._indices().nbytes
    return tensor.nbytes
