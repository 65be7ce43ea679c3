"""DiLoCo (arXiv 2311.08105): inner steps of AdamW on each rank, then one outer step of all ranks.

The outer gradient is the mean over the ranks of each rank's change of the parameters since the last
outer step, `sync_every` inner steps ago; Nesterov momentum applies the outer gradient. With
`early_exchange`, the last inner step updates each layer as soon as the layer's gradient is known
and sends the layer's outer gradient while the backward pass continues, as the simulations of the
Streaming DiLoCo paper assume.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from . import Job, Method


class Fragment:
    """Parameters that are synchronised together, their common values, and the outer optimizer.

    Attributes:
        parameters: this rank's parameters.
        turn: number of the inner step, modulo `sync_every`, before the outer step.
        missing: number of gradients of the current step that are not known yet.
        common: the values after the last outer step.
    """

    def __init__(self, parameters: list[nn.Parameter], turn: int, job: Job) -> None:
        self.parameters = parameters
        self.turn = turn
        self.missing = len(parameters)
        self.common = []

        for parameter in parameters:
            values = parameter.detach().clone()
            self.common.append(nn.Parameter(values))

        momentum = job.settings["outer_momentum"]
        self.outer = torch.optim.SGD(
            self.common,
            lr=job.settings["outer_lr"],
            momentum=momentum,
            nesterov=momentum > 0,
        )
        self.dtype = getattr(torch, job.settings["exchange_dtype"])
        self.world = job.world
        size = sum(p.numel() for p in parameters)
        self.buffer = torch.empty(size, dtype=self.dtype)
        self.work: dist.Work | None = None

    def send(self) -> None:
        """Start averaging the outer gradients."""
        outer_gradients = []

        for common, own in zip(self.common, self.parameters, strict=True):
            outer_gradient = common.detach() - own.detach()
            outer_gradients.append(outer_gradient.flatten().to(self.dtype))

        torch.cat(outer_gradients, out=self.buffer)
        self.buffer /= self.world
        self.work = dist.all_reduce(self.buffer, async_op=True)

    def receive(self, keep: float = 0.0) -> None:
        """Wait for the average and take the outer step.

        Args:
            keep: the fraction of this rank's parameters that remains in the mix.
        """
        if self.work is None:
            return

        self.work.wait()
        self.work = None
        sizes = [p.numel() for p in self.common]
        pieces = self.buffer.split(sizes)  # type: ignore[no-untyped-call]

        for common, piece in zip(self.common, pieces, strict=True):
            common.grad = piece.view_as(common).float()

        self.outer.step()
        for own, common in zip(self.parameters, self.common, strict=True):
            own.data.lerp_(common.data, 1 - keep)


class OuterSteps(Method):
    """Outer steps of the model's fragments in turn, each fragment once in `sync_every` steps.

    The outer gradients of a fragment are sent after an inner step. With `early_exchange`, the
    gradients are sent layer by layer during the backward pass of that step: then every layer is a
    separate exchange and has a separate inner optimizer.
    """

    def __init__(
        self, job: Job, groups: Sequence[Sequence[nn.Module]], overlap: int = 0, keep: float = 0.0
    ) -> None:
        """Divide the model into fragments.

        Args:
            job: job of this rank.
            groups: the layers of each fragment.
            overlap: number of further inner steps before the rank waits for the average.
            keep: the fraction of the rank's parameters that then remains in the mix.
        """
        super().__init__(job)
        self.overlap = overlap
        self.keep = keep
        self.steps = 0
        self.early = job.settings["early_exchange"]
        self.sync_every: int = job.settings["sync_every"]
        self.fragments: list[Fragment] = []

        for number, layers in enumerate(groups, start=1):
            turn = round(number * self.sync_every / len(groups)) % self.sync_every
            if self.early:
                for layer in layers:
                    self._add_fragment([layer], turn)
            else:
                self._add_fragment(layers, turn)

        if self.early:
            self._exchange_early()

    def _add_fragment(self, layers: Iterable[nn.Module], turn: int) -> None:
        parameters: list[nn.Parameter] = []
        for layer in layers:
            parameters.extend(layer.parameters())

        self.fragments.append(Fragment(parameters, turn, self.job))

    def _exchange_early(self) -> None:
        """Give each fragment an inner optimizer and hooks that send its outer gradients early."""
        self.optimizers = []

        for fragment in self.fragments:
            optimizer = self.job.optimizer(fragment.parameters)
            self.optimizers.append(optimizer)

            for parameter in fragment.parameters:
                hook = partial(self._gradient_known, fragment, optimizer)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def due(self, fragment: Fragment, step: int) -> bool:
        """Return whether an outer step of `fragment` follows inner step `step`, counted from 1."""
        return step % self.sync_every == fragment.turn

    def update(self) -> None:
        """Take an inner step, start the averages due now, and take the outer steps due now."""
        self.steps += 1
        if self.early:
            self._update_others()
        else:
            super().update()

        for fragment in self.fragments:
            if not self.early and self.due(fragment, self.steps):
                fragment.send()
            if self.due(fragment, self.steps - self.overlap):
                fragment.receive(self.keep)

    def _update_others(self) -> None:
        """Take the inner step of fragments that took none during the backward pass."""
        for fragment, optimizer in zip(self.fragments, self.optimizers, strict=True):
            if not self.due(fragment, self.steps):
                optimizer.step()

    def finish(self) -> None:
        """Wait for the averages in progress and take their outer steps."""
        for fragment in self.fragments:
            fragment.receive(self.keep)

    def _gradient_known(
        self, fragment: Fragment, optimizer: torch.optim.Optimizer, _parameter: torch.Tensor
    ) -> None:
        """Count a gradient of `fragment`; after the last, send the fragment if its turn is next."""
        fragment.missing -= 1
        if fragment.missing > 0:
            return

        fragment.missing = len(fragment.parameters)
        if self.due(fragment, self.steps + 1):
            optimizer.step()
            fragment.send()


class Train(OuterSteps):
    """DiLoCo with a single fragment, the whole model."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, [list(job.model)])
