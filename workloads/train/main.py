"""Trains a small GPT on text, with a method of your choice; the time of its computation is that of
a GPU.

    testbed run two-sites train --set workload.method=diloco --set workload.steps=50

Every rank holds the same model and draws the same batches, of which it takes its part. The losses
are real; how long forward and backward passes take is modelled
(`testbed.workloads.lib.modelled_compute`). Each step leaves a record.
"""

from __future__ import annotations

import json
import socket
import time

import torch

# what torch.optim imports when it is first used: 5 s in a guest, before the ranks are forked
import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.pipelining
from torch import nn

from testbed.workers.rank import RankContext

from ..lib.heap import populate_heap
from ..lib.modelled_compute import ModelledCompute, Spent
from . import methods
from .gpt import Text, make_gpt

# of the parameters: gradients, AdamW's two moments, buckets, outer values and momentum, buffers
COPIES = 8


class Pacing:
    """The modelled time of whatever modules this rank computes with."""

    def __init__(self, context: RankContext) -> None:
        self.settings = context.settings
        self.seed = f"{context.plan.seed}-{context.rank}"
        self.computes: list[ModelledCompute] = []

    def pace(self, module: nn.Module, parts: float) -> None:
        """Let each pass of `module` take its part of the step."""
        settings = self.settings
        self.computes.append(
            ModelledCompute(
                module,
                step_time=settings["step_seconds"] / parts,
                jitter=settings["jitter"],
                slowdown=settings["straggler"].get(socket.gethostname(), 1.0),
                seed=self.seed,
            )
        )

    def take(self) -> Spent:
        """What was spent in the last step."""
        spent = [compute.take() for compute in self.computes]
        return Spent(
            sum(s.modelled_ns for s in spent),
            sum(s.slept_ns for s in spent),
            sum(s.late_ns for s in spent),
            sorted(span for s in spent for span in s.spans),
        )


def make_job(context: RankContext, pacing: Pacing) -> methods.Job:
    """The model and what the method needs to know."""
    settings, plan = context.settings, context.plan
    datacenter = {host.name: host.dc for host in plan.network.hosts}
    sites: dict[str, list[int]] = {}
    for rank in plan.workers.ranks:
        sites.setdefault(datacenter[rank.host], []).append(rank.rank)
    return methods.Job(
        rank=context.rank,
        world=context.world_size,
        sites=list(sites.values()),
        model=make_gpt(
            settings["parameters"], settings["layers"], settings["sequence"], settings["seed"]
        ),
        settings=settings,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=settings["lr"]),
        pace=pacing.pace,
    )


def main(context: RankContext) -> None:
    """Train for `steps` steps."""
    settings = context.settings
    populate_heap(4 * COPIES * settings["parameters"])
    pacing = Pacing(context)
    method = methods.load(settings["method"])(make_job(context, pacing))
    text = Text(settings["sequence"], settings["seed"])
    batch = settings["batch"] * context.world_size
    context.recorder.expect(settings["steps"], "step")
    unix_ns = time.time_ns() - time.monotonic_ns()
    with context.run.rank_train(context.rank).open("a", buffering=1) as records:
        for step in range(settings["steps"]):
            inputs, targets = text.batch(step, batch)
            start = time.time_ns()
            loss = method.step(inputs, targets)
            if step == settings["steps"] - 1:
                method.finish()
            end = time.time_ns()
            spent = pacing.take()
            record = {
                "step": step,
                "start_ns": start,
                "end_ns": end,
                "compute_ns": spent.modelled_ns,
                "late_ns": spent.late_ns,
                "loss": loss,
                "tokens": settings["batch"] * settings["sequence"],
                "computed_ns": [unix_ns + edge for span in spent.spans for edge in span],
            }
            records.write(json.dumps(record) + "\n")
