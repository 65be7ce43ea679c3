"""Parameter server (rank 0) and workers that do not wait for each other.

A worker sends its gradient and receives the newest parameters; the server takes one step per
received gradient. The age of a gradient in steps is the number of steps that the server took for
other workers since the gradient's worker last received parameters. The server takes the messages in
any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from testbed.core.errors import InputError

from ..gpt import loss_of
from . import Job, Method

SERVER = 0


@dataclass
class SendingParameters:
    """Parameters on their way to a worker."""

    parameters: torch.Tensor  # kept until the send is complete
    work: dist.Work | None


class Train(Method):
    """Asynchronous training; one step of the server is on average one gradient of each worker."""

    def __init__(self, job: Job) -> None:
        if job.world < 2:
            raise InputError("async-ps needs at least two ranks: a server and a worker")

        self.job = job
        self.model = job.model
        self.network = job.model
        self.optimizer = job.optimizer(self.model.parameters())
        self.size = sum(p.numel() for p in self.model.parameters())
        self.gradient = torch.empty(self.size)
        self.replies: dict[int, SendingParameters] = {}
        if job.rank != SERVER:
            job.pace(self.model, 1.0)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """Exchange one gradient on a worker, or one gradient per worker on the server.

        Args:
            inputs: tokens of all workers, shape (batch, sequence).
            targets: the tokens that follow, shape (batch, sequence).

        Returns:
            The loss on a worker, None on the server.
        """
        workers = self.job.world - 1
        if self.job.rank == SERVER:
            for _worker in range(workers):
                self.serve()

            return None

        own_part = slice(self.job.rank - 1, None, workers)
        self.optimizer.zero_grad()
        loss = loss_of(self.model(inputs[own_part]), targets[own_part])
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        gradient = parameters_to_vector(gradients)
        dist.send(gradient, SERVER)
        dist.recv(self.gradient, SERVER)
        newest = self.gradient.clone()
        vector_to_parameters(newest, self.model.parameters())

        return loss.item()

    def serve(self) -> None:
        """Receive the next gradient, apply the gradient, and send its worker the parameters."""
        worker = dist.recv(self.gradient)
        start = 0

        for parameter in self.model.parameters():
            end = start + parameter.numel()
            piece = self.gradient[start:end]
            parameter.grad = piece.view_as(parameter).clone()
            start = end

        self.optimizer.step()
        self.finish_reply(worker)
        newest = parameters_to_vector(self.model.parameters()).detach()
        sending = dist.isend(newest, worker)
        self.replies[worker] = SendingParameters(newest, sending)

    def finish_reply(self, worker: int) -> None:
        """Wait until the last reply to `worker` is sent."""
        reply = self.replies.pop(worker, None)
        if reply is not None and reply.work is not None:
            reply.work.wait()

    def finish(self) -> None:
        """Wait until every reply is sent."""
        for worker in list(self.replies):
            self.finish_reply(worker)
