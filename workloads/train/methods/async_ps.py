"""A parameter server (rank 0) and workers that do not wait for each other.

A worker sends its gradient and gets the newest parameters; the server takes a step with each
gradient as it comes. So a gradient is stale by the steps of the others since its worker last heard.
The server takes the messages in any order.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from testbed.core.errors import InputError

from ..gpt import loss_of
from . import Job, Method

SERVER = 0


class Train(Method):
    """A step of the server is one gradient of each worker, on average."""

    def __init__(self, job: Job) -> None:
        if job.world < 2:
            raise InputError("async-ps needs a worker besides the server: at least two ranks")
        self.job, self.model, self.network = job, job.model, job.model
        self.optimizer = job.optimizer(self.model.parameters())
        self.size = sum(p.numel() for p in self.model.parameters())
        self.gradient = torch.empty(self.size)
        self.replies: dict[int, tuple[torch.Tensor, dist.Work]] = {}
        if job.rank != SERVER:
            job.pace(self.model, 1.0)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """One gradient of this worker, or one for each worker at the server."""
        if self.job.rank == SERVER:
            for _worker in range(self.job.world - 1):
                self.serve()
            return None
        mine = slice(self.job.rank - 1, None, self.job.world - 1)
        self.optimizer.zero_grad()
        loss = loss_of(self.model(inputs[mine]), targets[mine])
        loss.backward()
        dist.send(
            parameters_to_vector(p.grad for p in self.model.parameters() if p.grad is not None),
            SERVER,
        )
        dist.recv(self.gradient, SERVER)
        vector_to_parameters(self.gradient.clone(), self.model.parameters())
        return loss.item()

    def serve(self) -> None:
        """Apply the gradient that comes next and send its worker the parameters."""
        worker = dist.recv(self.gradient)
        start = 0
        for parameter in self.model.parameters():
            parameter.grad = (
                self.gradient[start : start + parameter.numel()].view_as(parameter).clone()
            )
            start += parameter.numel()
        self.optimizer.step()
        self.finish_reply(worker)
        newest = parameters_to_vector(self.model.parameters()).detach()
        self.replies[worker] = newest, dist.isend(newest, worker)

    def finish_reply(self, worker: int) -> None:
        """Wait until the last reply to `worker` has left."""
        if worker in self.replies:
            self.replies.pop(worker)[1].wait()

    def finish(self) -> None:
        """Wait until every reply has left."""
        for worker in list(self.replies):
            self.finish_reply(worker)
