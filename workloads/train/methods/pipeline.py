"""Pipeline parallel: each rank holds some layers, through which micro-batches pass.

torch.distributed.pipelining moves the micro-batches. The whole global batch passes through every
rank, and the layers of all ranks together take the step time per rank's batch: with n ranks, each
rank computes for one step time per step, plus the bubble. The links carry activations, not
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
    """Return the layers in stages with numbers of parameters as equal as their order allows.

    Args:
        layers: layers in order, at least as many as stages.
        stages: number of stages; each stage gets at least one layer.
    """
    sizes = [_size(layer) for layer in layers]
    total = sum(sizes)
    runs: list[list[nn.Module]] = [[] for _ in range(stages)]
    stage = 0
    size_before = 0

    for number, layer in enumerate(layers):
        size = sizes[number]
        middle = size_before + size / 2
        wanted_stage = int(middle * stages / total)
        # no stage is left empty: neither the current stage nor those after the last layers
        last_stage = stage + 1 if runs[stage] else stage
        layers_left = len(layers) - number
        first_stage = max(stage, stages - layers_left)
        stage = max(first_stage, min(wanted_stage, last_stage))
        stage = min(stage, stages - 1)
        runs[stage].append(layer)
        size_before += size

    return runs


def _size(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


class Train(Method):
    """One stage of the pipeline, with its `schedule` and `microbatches`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        settings = job.settings
        microbatches = settings["microbatches"]
        self.is_first = job.rank == 0
        self.is_last = job.rank == job.world - 1

        stages = cut(list(job.model), job.world)
        layers = stages[job.rank]
        self.stage = nn.Sequential(*layers)
        job.pace(self.stage, microbatches)
        self.optimizer = job.optimizer(self.stage.parameters())

        stage = PipelineStage(self.stage, job.rank, job.world, torch.device("cpu"))
        make_schedule = SCHEDULES[settings["schedule"]]
        self.schedule = make_schedule(stage, microbatches, loss_fn=loss_of)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """Train on all micro-batches.

        Args:
            inputs: tokens, shape (batch, sequence).
            targets: the tokens that follow, shape (batch, sequence).

        Returns:
            The loss on the last rank, None on other ranks.
        """
        self.optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        arguments = (inputs,) if self.is_first else ()
        if self.is_last:
            self.schedule.step(*arguments, target=targets, losses=losses)
        else:
            self.schedule.step(*arguments)

        self.optimizer.step()
        return torch.stack(losses).mean().item() if self.is_last else None
