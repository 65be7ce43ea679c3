"""Data parallel: torch's DistributedDataParallel averages gradients during the backward pass."""

# No `from __future__ import annotations`: DDP reads the annotations of its hooks.
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ..gpt import GPT
from . import Method

MIB = 2**20


class Train(Method):
    """Data-parallel training; gradients are averaged `bucket` bytes at a time."""

    def prepare(self, model: GPT) -> DistributedDataParallel:
        """Return the wrapped model; subclasses add a communication hook."""
        bucket_mib = self.job.settings["bucket"] / MIB

        return DistributedDataParallel(model, bucket_cap_mb=bucket_mib)


class InOrder:
    """Communication hook that a thread runs bucket after bucket during the backward pass.

    gloo matches collectives by their order. A hook of several collectives starts the later
    collectives after the earlier ones, and with several buckets in progress that order would differ
    between ranks.
    """

    def __init__(self, average: Callable[[GradBucket], torch.Tensor]) -> None:
        self.average = average
        self.thread = ThreadPoolExecutor(1)

    def hook(self, _state: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Average a bucket in the thread; DDP waits for the future after the backward pass."""
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()

        def work() -> None:
            try:
                future.set_result(self.average(bucket))
            except Exception as error:  # raised again where DDP waits
                future.set_exception(error)  # type: ignore[arg-type]

        self.thread.submit(work)
        return future
