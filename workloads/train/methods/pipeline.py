"""Pipeline parallel: each rank holds some of the layers; torch.distributed.pipelining moves
micro-batches through them.

The whole global batch passes every rank, and its layers take the step time between them: with n
ranks each computes a step time's worth per step, plus the bubble. Activations cross the links, not
gradients of parameters.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from ..gpt import loss_of
from . import Job, Method

SCHEDULES = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


def cut(layers: list[nn.Module], stages: int) -> list[list[nn.Module]]:
    """The layers in `stages` runs with as equal numbers of parameters as their order allows."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    runs: list[list[nn.Module]] = [[] for _ in range(stages)]
    before, stage = 0, 0
    for n, (layer, size) in enumerate(zip(layers, sizes, strict=True)):
        wanted = int((before + size / 2) * stages / sum(sizes))
        least = stages - (len(layers) - n)  # so that the layers left suffice for the stages left
        stage = min(max(stage, least, min(wanted, stage + 1 if runs[stage] else stage)), stages - 1)
        runs[stage].append(layer)
        before += size
    return runs


class Train(Method):
    """`schedule` and `microbatches` are the pipeline's."""

    def __init__(self, job: Job) -> None:
        self.job = job
        settings = job.settings
        self.stage = nn.Sequential(*cut(list(job.model), job.world)[job.rank])
        job.pace(self.stage, settings["microbatches"])
        self.optimizer = job.optimizer(self.stage.parameters())
        stage = PipelineStage(self.stage, job.rank, job.world, torch.device("cpu"))
        self.schedule = SCHEDULES[settings["schedule"]](
            stage, settings["microbatches"], loss_fn=loss_of
        )

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """All micro-batches forward and backward; only the last rank knows the loss."""
        self.optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        first, last = self.job.rank == 0, self.job.rank == self.job.world - 1
        arguments = (inputs,) if first else ()
        if last:
            self.schedule.step(*arguments, target=targets, losses=losses)
        else:
            self.schedule.step(*arguments)
        self.optimizer.step()
        return torch.stack(losses).mean().item() if last else None
