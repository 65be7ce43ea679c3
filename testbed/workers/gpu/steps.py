"""Steps of training on modelled GPUs, found by the optimizer, and what streams did in them.

A step ends when the stream has carried out the optimizer's step. Several optimizers that follow
each other without a product of matrices between them belong to one step; the analysis joins these.
Kernels are grouped by parts of the model, which a module's name gives, such as ``layers.3``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

from testbed.runfolder.records import GpuEnd, GpuRecord, GpuStep, GpuWait, StreamSpan
from testbed.workers.gpu.device_library import device_library, gpu_figures, memory_figures
from testbed.workers.gpu.labels import OPERATIONS, Labels

CHECKED = {"torch": ("2.13",)}

MOST_SPANS = 5000  # of a rank
FIRST_COMMUNICATION_STREAM = 1000  # their operations have records
NO_PART = -1
OPTIMIZER = "optimizer"
PHASES = ("other", "forward", "backward", "recomputation")
SUFFIXES = {"backward": " (backward)", "recomputation": " (recomputed)"}
# Names that wrappers of modules add to those of the model.
WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
MEGATRON_GROUPS = "megatron.core.parallel_state"

Sink = Callable[[GpuRecord], None]


class StepWatch:
    """The hooks in torch that find steps and parts, and the writer of their records."""

    def __init__(self) -> None:
        self._parts: Labels[str] = Labels()
        self._names: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()
        self._entered: list[int] = []
        self._sink: Sink | None = None
        self._process = 0
        self._spans_left = MOST_SPANS
        self.token_ranks = 1  # ranks that read the same tokens

    def start(self) -> None:
        """Find steps and parts from now on."""
        optimizers.register_optimizer_step_pre_hook(self._optimizer_begins)
        optimizers.register_optimizer_step_post_hook(self._optimizer_ended)
        modules.register_module_forward_pre_hook(self._enter)
        modules.register_module_forward_hook(self._leave, always_call=True)

    def write_to(self, sink: Sink) -> None:
        """Give the records of this process to `sink`."""
        self._sink = sink
        self._process = os.getpid()

    def finish(self) -> None:
        """Write the rest of the records at the end of the process."""
        self._write(is_end=True)
        if not self._writes:
            return

        for device in range(gpu_figures().count):
            figures = memory_figures(device)
            peak_bytes = figures["highest_allocated"]
            if peak_bytes:
                reserved_bytes = figures["highest_reserved"]
                end = GpuEnd(device=device, peak_bytes=peak_bytes, reserved_bytes=reserved_bytes)
                self._give(end)

    @property
    def _writes(self) -> bool:
        return self._sink is not None and self._process == os.getpid()

    def _give(self, record: GpuRecord) -> None:
        assert self._sink is not None
        self._sink(record)

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, *_arguments: object) -> None:
        if _device_of(optimizer) is not None:
            device_library().testbed_begin_optimizer()
            device_library().testbed_enter_part(self._parts.number(OPTIMIZER))

    def _optimizer_ended(self, optimizer: torch.optim.Optimizer, *_arguments: object) -> None:
        device = _device_of(optimizer)
        if device is not None:
            device_library().testbed_enter_part(NO_PART)
            device_library().testbed_mark_step(device)
            self._write(is_end=False)

    def _enter(self, module: torch.nn.Module, _inputs: object) -> None:
        part = self._names.get(module)
        if part is None:
            self._name_all(module)
            part = self._names[module]

        self._entered.append(part)
        device_library().testbed_enter_part(part)

    def _leave(self, _module: torch.nn.Module, _inputs: object, _outputs: object) -> None:
        if self._entered:
            self._entered.pop()

        part = self._entered[-1] if self._entered else NO_PART
        device_library().testbed_enter_part(part)

    def _name_all(self, root: torch.nn.Module) -> None:
        """Give each module of a model the number of its part."""
        for name, module in root.named_modules():
            part = part_name(name) or type(root).__name__
            self._names.setdefault(module, self._parts.number(part))

    def _write(self, *, is_end: bool) -> None:
        """Write what the library knows by now; other processes forget it."""
        text = device_library().testbed_take_records(int(is_end)).decode()
        if not self._writes:
            return

        for record in self._records(text):
            self._give(record)

    def _records(self, text: str) -> Iterator[GpuRecord]:
        for line in text.splitlines():
            kind, *words = line.split(" ")
            if kind == "step":
                yield _step(words, self._shared_tokens())
            elif self._spans_left > 0 and int(words[1]) < FIRST_COMMUNICATION_STREAM:
                self._spans_left -= 1
                yield self._span(kind, words)

    def _span(self, kind: str, words: list[str]) -> StreamSpan:
        device, stream, begin_ns, end_ns, label = map(int, words)
        waits = kind == "wait"
        if waits:
            operation = OPERATIONS.key(label)
            name = "an operation" if operation is None else operation.op
        else:
            name = self._work_name(label)

        return StreamSpan(
            device=device, stream=stream, start_ns=begin_ns, end_ns=end_ns, name=name, waits=waits
        )

    def _work_name(self, label: int) -> str:
        """Return the name of kernels with a label (native/labels.h)."""
        phase = PHASES[label % len(PHASES)]
        part = self._parts.key(label // len(PHASES) - 1)
        if part is None:
            return phase

        return part + SUFFIXES.get(phase, "")

    def _shared_tokens(self) -> int:
        """Return the number of ranks that read the same tokens, of tensor parallelism."""
        groups: Any = sys.modules.get(MEGATRON_GROUPS)
        if groups is not None and groups.model_parallel_is_initialized():
            return int(groups.get_tensor_model_parallel_world_size())

        return self.token_ranks


WATCH = StepWatch()


def part_name(module_name: str) -> str:
    """Return the part of a model to which a module belongs, by the module's name.

    A part is a block of a list of blocks, such as ``layers.3``, or else at most two levels.
    """
    words = [word for word in module_name.split(".") if word and word not in WRAPPERS]
    for place, word in enumerate(words):
        if word.isdigit():
            return ".".join(words[: place + 1])

    return ".".join(words[:2])


def count_tokens_once(module: ModuleType) -> None:
    """Let `parallelize_module` say how many ranks read the same tokens.

    Args:
        module: torch.distributed.tensor.parallel.api, just imported.
    """
    parallelize: Callable[..., torch.nn.Module] = module.parallelize_module

    def parallelize_module(
        model: torch.nn.Module, device_mesh: Any = None, *arguments: Any, **options: Any
    ) -> torch.nn.Module:
        has_embedding = any(isinstance(part, torch.nn.Embedding) for part in model.modules())
        if has_embedding and device_mesh is not None:
            WATCH.token_ranks = device_mesh.size()

        return parallelize(model, device_mesh, *arguments, **options)

    parallelize_module.__doc__ = parallelize.__doc__
    module.parallelize_module = parallelize_module  # type: ignore[attr-defined]


def _device_of(optimizer: torch.optim.Optimizer) -> int | None:
    """Return the modelled GPU of an optimizer's parameters; None without one."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            device: torch.device = parameter.device
            return device.index if device.type == "cuda" else None

    return None


def _step(words: list[str], token_ranks: int) -> GpuStep:
    """Return the record of a step (native/steps.cpp)."""
    device, end_ns, busy_ns, launch_ns, streams_ns = map(int, words[:5])
    flops, recomputed, of_optimizer = map(float, words[5:8])
    peak_bytes, waits_count = map(int, words[8:10])
    rest = [int(word) for word in words[10:]]
    waits = []
    for place in range(0, 2 * waits_count, 2):
        operation = OPERATIONS.key(rest[place])
        wait = GpuWait(
            op="" if operation is None else operation.op,
            process_group="" if operation is None else operation.process_group,
            peer=None if operation is None else operation.peer,
            ns=rest[place + 1],
        )
        waits.append(wait)

    looked_up = rest[2 * waits_count + 1 :]
    return GpuStep(
        device=device,
        end_ns=end_ns,
        busy_ns=busy_ns,
        launch_ns=launch_ns,
        streams_ns=streams_ns,
        waits=waits,
        flops=flops,
        recomputed_flops=recomputed,
        optimizer_flops=of_optimizer,
        tokens=max(looked_up, default=None),
        token_ranks=token_ranks,
        peak_bytes=peak_bytes,
    )
