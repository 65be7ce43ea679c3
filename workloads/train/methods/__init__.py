"""How ranks learn together: a module for each method, named as in the workload's file with ``_``
for ``-``.

Each has a class ``Train``, made from a `Job`, whose ``step(inputs, targets)`` trains on one global
batch: it computes this rank's part, exchanges what the method exchanges, and updates the model.
`Method` itself exchanges nothing.
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
    """What a method is given, on one rank."""

    rank: int
    world: int
    sites: list[list[int]]  # the ranks of each datacenter
    model: GPT  # the same on all ranks
    settings: Settings  # of the workload
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]  # of the inner steps
    pace: Callable[
        [nn.Module, float], None
    ]  # (module, n): its passes take 1/n of the step time from now on

    @property
    def site(self) -> list[int]:
        """The ranks of this rank's datacenter."""
        return next(site for site in self.sites if self.rank in site)


class Method:
    """Training of one rank by itself; base of all methods."""

    def __init__(self, job: Job) -> None:
        self.job, self.model = job, job.model
        job.pace(self.model, 1.0)
        self.network = self.prepare(self.model)
        self.optimizer = job.optimizer(self.model.parameters())

    def prepare(self, model: GPT) -> nn.Module:
        """What computes the logits: `model`, wrapped if need be."""
        return model

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """Train on a global batch; gives the loss on this rank's part of it, None if it computed
        none.
        """
        loss = self.backward(inputs, targets)
        self.update()
        return loss

    def backward(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Gradients of this rank's part of the batch."""
        mine = slice(self.job.rank, None, self.job.world)
        self.optimizer.zero_grad()
        loss = loss_of(self.network(inputs[mine]), targets[mine])
        loss.backward()
        return loss.item()

    def update(self) -> None:
        """One step of the optimizer."""
        self.optimizer.step()

    def finish(self) -> None:
        """After the last step: complete what is still under way."""


def load(name: str) -> type[Method]:
    """The class of the method `name`."""
    method: type[Method] = importlib.import_module(
        f"testbed.workloads.train.methods.{name.replace('-', '_')}"
    ).Train
    return method
