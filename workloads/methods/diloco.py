"""DiLoCo (arXiv 2311.08105): `sync_every` steps of AdamW on each rank, then one outer step of all of them together.

The outer gradient is the mean over the ranks of how far each has moved since the last outer step; Nesterov momentum
applies it. With `early_exchange` the last inner step updates each layer as soon as its gradient is known and sends its
outer gradient while the backward pass goes on: what the simulations of the Streaming DiLoCo paper assume.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from workloads.methods import Job, Method


class Fragment:
    """Parameters that are synchronised together: their common values, and the outer optimizer on those."""

    def __init__(self, parameters: Iterable[nn.Parameter], job: Job) -> None:
        self.parameters = list(parameters)
        self.common = [nn.Parameter(p.detach().clone()) for p in self.parameters]
        momentum = job.settings["outer_momentum"]
        self.outer = torch.optim.SGD(self.common, lr=job.settings["outer_lr"], momentum=momentum, nesterov=momentum > 0)
        self.dtype = getattr(torch, job.settings["exchange_dtype"])
        self.world = job.world
        self.buffer = torch.empty(sum(p.numel() for p in self.parameters), dtype=self.dtype)
        self.work: dist.Work | None = None

    def send(self) -> None:
        """Begin to average the outer gradients."""
        moved = zip(self.common, self.parameters, strict=True)
        torch.cat([(old.detach() - new.detach()).flatten().to(self.dtype) for old, new in moved], out=self.buffer)
        self.buffer /= self.world
        self.work = dist.all_reduce(self.buffer, async_op=True)

    def receive(self, keep: float = 0.0) -> None:
        """Wait for the average and take the outer step; of what the rank did meanwhile `keep` remains."""
        if self.work is None:
            return
        self.work.wait()
        self.work = None
        pieces = self.buffer.split([p.numel() for p in self.common])
        for parameter, piece in zip(self.common, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).float()
        self.outer.step()
        for mine, common in zip(self.parameters, self.common, strict=True):
            mine.data.lerp_(common.data, 1 - keep)


class Train(Method):
    """One fragment; with `early_exchange` one of each layer, with an inner optimizer of its own."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.steps = 0
        self.early = job.settings["early_exchange"]
        layers = list(self.model) if self.early else [self.model]
        self.fragments = [Fragment(layer.parameters(), job) for layer in layers]
        if self.early:
            self.optimizers = [job.optimizer(fragment.parameters) for fragment in self.fragments]
            for number, fragment in enumerate(self.fragments):
                self.missing = [0] * len(self.fragments)
                for parameter in fragment.parameters:
                    parameter.register_post_accumulate_grad_hook(lambda _p, number=number: self.ready(number))

    def update(self) -> None:
        """An inner step, and the outer one when it is due."""
        self.steps += 1
        if self.early:
            for optimizer, fragment in zip(self.optimizers, self.fragments, strict=True):
                if fragment.work is None:
                    optimizer.step()
        else:
            super().update()
            if self.due(self.steps):
                self.fragments[0].send()
        for fragment in self.fragments:
            fragment.receive()

    def due(self, step: int) -> bool:
        """Whether an outer step follows the inner step number `step`, which counts from 1."""
        return step % self.job.settings["sync_every"] == 0

    def ready(self, number: int) -> None:
        """A gradient of fragment `number` is there; once all are, the last inner step sends it."""
        self.missing[number] += 1
        if self.missing[number] == len(self.fragments[number].parameters):
            self.missing[number] = 0
            if self.due(self.steps + 1):
                self.optimizers[number].step()
                self.fragments[number].send()
