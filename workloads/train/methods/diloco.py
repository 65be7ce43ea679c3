"""DiLoCo (arXiv 2311.08105): `sync_every` steps of AdamW on each rank, then one outer step of all
of them together.

The outer gradient is the mean over the ranks of how far each has moved since the last outer step;
Nesterov momentum applies it. With `early_exchange` the last inner step updates each layer as soon
as its gradient is known and sends its outer gradient while the backward pass goes on: what the
simulations of the Streaming DiLoCo paper assume.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from . import Job, Method


class Fragment:
    """Parameters that are synchronised together: their common values, and the outer optimizer on
    those.
    """

    def __init__(self, parameters: list[nn.Parameter], turn: int, job: Job) -> None:
        self.parameters = parameters
        self.turn = turn  # of the steps modulo `sync_every`
        self.missing = len(parameters)  # gradients of the step under way
        self.common = [nn.Parameter(p.detach().clone()) for p in self.parameters]
        momentum = job.settings["outer_momentum"]
        self.outer = torch.optim.SGD(
            self.common, lr=job.settings["outer_lr"], momentum=momentum, nesterov=momentum > 0
        )
        self.dtype = getattr(torch, job.settings["exchange_dtype"])
        self.world = job.world
        self.buffer = torch.empty(sum(p.numel() for p in self.parameters), dtype=self.dtype)
        self.work: dist.Work | None = None

    def send(self) -> None:
        """Begin to average the outer gradients."""
        moved = zip(self.common, self.parameters, strict=True)
        torch.cat(
            [(old.detach() - new.detach()).flatten().to(self.dtype) for old, new in moved],
            out=self.buffer,
        )
        self.buffer /= self.world
        self.work = dist.all_reduce(self.buffer, async_op=True)

    def receive(self, keep: float = 0.0) -> None:
        """Wait for the average and take the outer step; of what the rank did meanwhile `keep`
        remains.
        """
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


class OuterSteps(Method):
    """Fragments of the model take outer steps in turn, each once in `sync_every` steps.

    The outer gradients of a fragment leave after an inner step, or with `early_exchange` layer by
    layer during its backward pass: then every layer is exchanged by itself and has an inner
    optimizer of its own.

    Args:
        groups: the layers of each fragment.
        overlap: after how many more inner steps the average is waited for.
        keep: what remains then of a rank's own parameters.
    """

    def __init__(
        self, job: Job, groups: Sequence[Sequence[nn.Module]], overlap: int = 0, keep: float = 0.0
    ) -> None:
        super().__init__(job)
        self.overlap, self.keep = overlap, keep
        self.steps = 0
        self.early = job.settings["early_exchange"]
        every = job.settings["sync_every"]
        self.fragments: list[Fragment] = []
        for number, layers in enumerate(groups):
            turn = round((number + 1) * every / len(groups)) % every
            for together in [[layer] for layer in layers] if self.early else [layers]:
                self.fragments.append(
                    Fragment([p for layer in together for p in layer.parameters()], turn, job)
                )
        if self.early:
            self.optimizers = [job.optimizer(fragment.parameters) for fragment in self.fragments]
            for fragment, optimizer in zip(self.fragments, self.optimizers, strict=True):
                for parameter in fragment.parameters:
                    parameter.register_post_accumulate_grad_hook(
                        partial(self._ready, fragment, optimizer)
                    )

    def due(self, fragment: Fragment, step: int) -> bool:
        """Whether an outer step of `fragment` follows the inner step number `step`, which counts
        from 1.
        """
        return step % int(self.job.settings["sync_every"]) == fragment.turn

    def update(self) -> None:
        """An inner step, the outer steps that are due, and the averages whose time has come."""
        self.steps += 1
        if self.early:
            for fragment, optimizer in zip(self.fragments, self.optimizers, strict=True):
                if not self.due(fragment, self.steps):
                    optimizer.step()
        else:
            super().update()
        for fragment in self.fragments:
            if not self.early and self.due(fragment, self.steps):
                fragment.send()
            if self.due(fragment, self.steps - self.overlap):
                fragment.receive(self.keep)

    def finish(self) -> None:
        """Take what is still under way."""
        for fragment in self.fragments:
            fragment.receive(self.keep)

    def _ready(
        self, fragment: Fragment, optimizer: torch.optim.Optimizer, _parameter: torch.Tensor
    ) -> None:
        """A gradient of `fragment` is there; once all are, an inner step that is due for exchange
        sends it.
        """
        fragment.missing -= 1
        if fragment.missing == 0:
            fragment.missing = len(fragment.parameters)
            if self.due(fragment, self.steps + 1):
                optimizer.step()
                fragment.send()


class Train(OuterSteps):
    """One fragment: the whole model."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, [list(job.model)])
