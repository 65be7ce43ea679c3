"""Make any PyTorch model take the computing time of a GPU.

    from testbed.workers.lib.modelled_compute import ModelledCompute
    ModelledCompute(model, gpu="H100", mfu=0.4)        # or step_time=0.35, in seconds

In a guest with a virtual clock, computation takes no time. After these two lines each forward and
backward pass of `model` *sleeps* for as long as the accelerator would have computed, in pieces at
each module in proportion to the module's FLOPs. The gradient of a layer therefore appears when it
would on a GPU, and the messages of DistributedDataParallel or FSDP overlap with the rest of the
backward pass. Results and losses are those of the real arithmetic.

- One forward and backward pass take `step_time`, or the FLOPs of the pass / (the GPU's peak FLOP/s
  x `mfu`). The forward pass takes a third of that time, the backward pass two thirds (two matrix
  products for each one of the forward pass). With checkpointing, the second forward pass costs
  another third, as on a GPU.
- torch.utils.flop_counter counts the FLOPs of each module in the first forward pass, whose third is
  slept in one piece at the end. Work that a module does itself, apart from the work of its
  children, is slept at the end of the module's forward pass and at the start of its backward pass.
  A model without any FLOPs sleeps as a whole.
- Short pieces are combined: no sleep is shorter than `PIECE_NS`, the remainder is slept later, and
  the excess of one sleep shortens the next. The sum is exact to one piece.
- On a real clock, the CPU time that this thread has used since the last sleep counts as already
  computed. A pass that used more CPU time than its modelled time is `late`: such a run could not
  keep up and does not show the timing of the GPU.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from testbed.core.gpus import ACCELERATORS, peak_flops

FORWARD = 1 / 3  # fraction of a step's FLOPs
PIECE_NS = 500_000
LATE = 0.02  # fraction of a step by which the step may be late without a warning


@dataclass
class Spent:
    """Sums of time over passes.

    Attributes:
        modelled_ns: the computation time to model.
        slept_ns: the part of the modelled time that was slept.
        late_ns: the time by which the CPU took longer.
        spans: begin and end of each stretch of computation, on the clock that sleeps.
    """

    modelled_ns: int = 0
    slept_ns: int = 0
    late_ns: int = 0
    spans: list[list[int]] = field(default_factory=list)


class Clock:
    """The run's clock, for reading the time and for sleeping."""

    def __init__(self) -> None:
        self._virtual = "time-travel=inf-cpu" in Path("/proc/cmdline").read_text()

    def now_ns(self) -> int:
        """Return the time in ns."""
        return time.monotonic_ns()

    def computed_ns(self) -> int:
        """Return the CPU time that this thread has used in ns; 0 on the virtual clock.

        The virtual clock stands still while programs compute, and the guest's kernel accounts
        waiting time as CPU time.
        """
        if self._virtual:
            return 0

        return time.thread_time_ns()

    def sleep_ns(self, ns: int) -> None:
        """Sleep for `ns` nanoseconds."""
        time.sleep(ns / 1e9)


class Pacer:
    """Sleeper for modelled time minus computed time, in pieces that are worth a system call."""

    def __init__(self, clock: Clock, piece_ns: int = PIECE_NS) -> None:
        self._clock = clock
        self._piece_ns = piece_ns
        self._owed_ns = 0
        self._computed_ns = clock.computed_ns()
        self.spent = Spent()

    def owe(self, ns: int) -> None:
        """Add `ns` to the time to sleep, and sleep once the total is long enough."""
        self.spent.modelled_ns += ns
        computed = self._newly_computed()
        self._owed_ns += ns - computed
        if self._owed_ns < self._piece_ns:
            return

        begin = self._clock.now_ns()
        self._clock.sleep_ns(self._owed_ns)
        end = self._clock.now_ns()
        self._owed_ns -= end - begin
        self.spent.slept_ns += end - begin
        self._add_span(begin - computed, end)
        self._newly_computed()

    def _add_span(self, begin: int, end: int) -> None:
        """Record a stretch of computation, merging it with a directly preceding stretch."""
        spans = self.spent.spans
        if spans and begin - spans[-1][1] < self._piece_ns:
            spans[-1][1] = end
        else:
            spans.append([begin, end])

    def forget(self) -> None:
        """Ignore the computation since the last sleep."""
        self._newly_computed()

    def settle(self) -> None:
        """End a pass: later sleeps cannot compensate for CPU time beyond the modelled time."""
        if self._owed_ns < -self._piece_ns:
            self.spent.late_ns -= self._owed_ns
            self._owed_ns = 0

    def _newly_computed(self) -> int:
        before = self._computed_ns
        self._computed_ns = self._clock.computed_ns()

        return self._computed_ns - before


class ModelledCompute:
    """Modelled GPU time for the passes of a model, as long as the model lives."""

    def __init__(
        self,
        model: nn.Module,
        *,
        step_time: float | None = None,
        gpu: str = "",
        mfu: float = 0.4,
        flops: float | None = None,
        slowdown: float = 1.0,
        jitter: float = 0.0,
        seed: object = 0,
        clock: Clock | None = None,
    ) -> None:
        """Pace `model`, before or after the model is wrapped for distribution.

        Args:
            model: the module whose forward pass computes one step or one micro-batch.
            step_time: seconds of a forward and a backward pass; None: from `gpu`, `mfu` and
                `flops`.
            gpu: a name in `ACCELERATORS`.
            mfu: fraction of the GPU's peak rate that the model reaches, from 0 to 1.
            flops: FLOPs of a forward and a backward pass; None: three times the FLOPs counted in
                the first forward pass.
            slowdown: factor on all times of this rank; above 1, the rank is a straggler.
            jitter: standard deviation of each step's time, as a fraction of the step's time.
            seed: seed of the jitter; use a different seed on each rank.
            clock: clock for reading the time and for sleeping.

        Raises:
            ValueError: neither a time nor a GPU is given, or the GPU is unknown.
        """
        if step_time is None and gpu not in ACCELERATORS:
            known = ", ".join(ACCELERATORS)
            raise ValueError(f"set step_time in seconds, or gpu to one of {known}; it is {gpu!r}")

        self._pacer = Pacer(clock or Clock())
        self._step_ns = None if step_time is None else step_time * 1e9
        self._flops = flops
        self._flops_per_ns = (peak_flops(gpu) or 0.0) * mfu / 1e9
        self._slowdown = slowdown
        self._jitter = jitter
        self._random = random.Random(str(seed))
        self._factor = slowdown
        self._model = model
        # fractions of the modules that compute something themselves; the sum is 1
        self._shares: dict[nn.Module, float] = {}
        self._counting: _Count | None = None
        self._warned = False
        model.register_forward_pre_hook(self._begin)

        for module in model.modules():
            module.register_forward_hook(self._forwarded)

        model.register_forward_hook(self._end, always_call=True)

    @property
    def step_seconds(self) -> float:
        """Seconds of a forward and a backward pass, without slowdown and jitter; 0 until known."""
        return (self._step_ns or 0.0) / 1e9

    def take(self) -> Spent:
        """Return the times spent since the last call, up to the end of the last pass."""
        self._pacer.settle()
        spent = self._pacer.spent
        self._pacer.spent = Spent()
        if spent.late_ns > LATE * max(spent.modelled_ns, 1) and not self._warned:
            self._warned = True
            late_ms = spent.late_ns / 1e6
            modelled_ms = spent.modelled_ns / 1e6
            warnings.warn(
                f"computing took {late_ms:.1f} ms longer than the {modelled_ms:.1f} ms to model: "
                "this CPU cannot keep up in real time",
                stacklevel=2,
            )

        return spent

    def _begin(self, _model: nn.Module, _inputs: Any) -> None:
        self._pacer.settle()
        self._factor = self._slowdown * max(0.0, self._random.gauss(1.0, self._jitter))
        if not self._shares:
            self._counting = _Count(self._model)

    def _forwarded(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._counting is None:
            self._owe(module, FORWARD)
        if not torch.is_grad_enabled():
            return

        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._backward_of(module))  # type: ignore[no-untyped-call]
                return

    def _backward_of(self, module: nn.Module) -> Callable[[torch.Tensor], None]:
        """Return the hook on the output of `module`, whose gradient precedes the parameters'."""

        def hook(_gradient: torch.Tensor) -> None:
            self._owe(module, 1 - FORWARD)

        return hook

    def _end(self, model: nn.Module, _inputs: Any, _output: Any) -> None:
        """End the whole forward pass, which may have failed."""
        if self._counting is None:
            return

        counted = self._counting.finish()
        self._counting = None
        total = sum(counted.values())
        if total:
            self._shares = {module: n / total for module, n in counted.items() if n}
        else:
            self._shares = {model: 1.0}

        if self._step_ns is None:
            self._step_ns = (self._flops or total / FORWARD) / self._flops_per_ns

        self._pacer.forget()  # the first pass takes long because of imports and the counting
        self._pacer.owe(round(self._step_ns * FORWARD * self._factor))

    def _owe(self, module: nn.Module, part: float) -> None:
        share = self._shares.get(module)
        if share:
            step_ns = self._step_ns or 0.0
            self._pacer.owe(round(step_ns * share * part * self._factor))


class _Count:
    """Counter of the FLOPs of each module without its children, in the pass that begins."""

    def __init__(self, model: nn.Module) -> None:
        # torch's table lacks attention on CPUs
        cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        self._mode = FlopCounterMode(
            display=False, custom_mapping={cpu_attention: _attention_flops}
        )
        self._own: dict[nn.Module, float] = {}
        # modules in progress
        self._open: list[_OpenModule] = []
        self._handles: list[RemovableHandle] = []

        for module in model.modules():
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave, prepend=True))

        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self._enter(model, ())  # the model's hook was registered too late for this pass

    def finish(self) -> dict[nn.Module, float]:
        """End counting, and return the FLOPs of each module."""
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        for handle in self._handles:
            handle.remove()

        return self._own

    def _enter(self, _module: nn.Module, _inputs: Any) -> None:
        self._open.append(_OpenModule(flops_before=self._mode.get_total_flops()))

    def _leave(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        opened = self._open.pop()
        whole = self._mode.get_total_flops() - opened.flops_before
        self._own[module] = self._own.get(module, 0.0) + whole - opened.flops_of_children
        if self._open:
            self._open[-1].flops_of_children += whole


@dataclass
class _OpenModule:
    """A module whose forward pass is in progress."""

    flops_before: float
    flops_of_children: float = 0.0


def _attention_flops(query: Any, key: Any, value: Any, *_arguments: Any, **_options: Any) -> int:
    """Return the FLOPs of `scaled_dot_product_attention` on a CPU; the arguments are shapes."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in the output of a module, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))
