"""Training methods: one module per method, named as in the workload's file.

A ``-`` in the method's name is ``_`` in the module's name. Each module has a class ``Train``, made
from a `Job`. Its ``step(inputs, targets)`` trains on one global batch: the method computes this
rank's part, exchanges data with other ranks, and updates the model. `Method` itself exchanges
nothing.

The requirements of a method on the settings are in `..method_rules`, which does not import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..gpt import GPT, loss_of

Settings = dict[str, Any]


@dataclass
class Job:
    """Inputs of a method on one rank.

    Attributes:
        rank: number of this rank.
        world: number of ranks.
        sites: the ranks of each datacenter.
        model: the model, the same on all ranks.
        settings: settings of the workload.
        optimizer: makes the optimizer of the inner steps.
        pace: pace(module, n) makes passes of the module take 1/n of the step time from now on.
    """

    rank: int
    world: int
    sites: list[list[int]]
    model: GPT
    settings: Settings
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    pace: Callable[[nn.Module, float], None]

    @property
    def site(self) -> list[int]:
        """The ranks of this rank's datacenter."""
        return next(site for site in self.sites if self.rank in site)


class Method:
    """Training of one rank without exchanges; base class of all methods."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model = job.model
        job.pace(self.model, 1.0)
        self.network = self.prepare(self.model)
        self.optimizer = job.optimizer(self.model.parameters())

    def prepare(self, model: GPT) -> nn.Module:
        """Return the module that computes the logits: `model`, or a wrapper of `model`."""
        return model

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """Train on a global batch.

        Args:
            inputs: tokens, (sequences of all ranks, length).
            targets: the tokens that follow, of the same shape.

        Returns:
            The loss on this rank's part of the batch; None if this rank computed no loss.
        """
        loss = self.backward(inputs, targets)
        self.update()

        return loss

    def backward(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Compute the gradients of this rank's part of a global batch, and return the part's loss.

        Args:
            inputs: tokens, (sequences of all ranks, length).
            targets: the tokens that follow, of the same shape.
        """
        own_part = slice(self.job.rank, None, self.job.world)
        self.optimizer.zero_grad()
        loss = loss_of(self.network(inputs[own_part]), targets[own_part])
        loss.backward()  # type: ignore[no-untyped-call]

        return loss.item()

    def update(self) -> None:
        """Take one step of the optimizer."""
        self.optimizer.step()

    def finish(self) -> None:
        """Complete exchanges that are still in progress after the last step."""


def load(name: str) -> type[Method]:
    """Return the class of the method `name`."""
    module = importlib.import_module(f"testbed.workloads.train.methods.{name.replace('-', '_')}")
    method: type[Method] = module.Train

    return method
