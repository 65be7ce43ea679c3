"""Train a small GPT on text with a selected method; computation takes a GPU's time.

    testbed run two-sites train --set workload.method=diloco --set workload.steps=50

Every rank holds the same model and draws the same batches, of which each rank takes its part. The
losses are real; the duration of forward and backward passes is modelled
(`testbed.workers.lib.modelled_compute`). Each step leaves a record.
"""

from __future__ import annotations

import contextlib
import socket
import time

import torch

# torch.optim imports these modules at its first use: 5 s in a guest, so import before the fork
import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.pipelining
from torch import nn

from testbed.runfolder.record_file import RecordFile
from testbed.runfolder.records import TrainingStep
from testbed.workers.lib.heap import populate_heap
from testbed.workers.lib.hierarchy import datacenter_ranks
from testbed.workers.lib.modelled_compute import ModelledCompute, Spent
from testbed.workers.workload import RankContext

from . import methods
from .gpt import Text, make_gpt

RECORDS_ITSELF = False  # torch.distributed is recorded instead; steps have records too
# copies of the parameters: gradients, AdamW's two moments, buckets, outer values and momentum,
# buffers
COPIES = 8
FLOAT_BYTES = 4


class Pacing:
    """Modelled time of all modules that this rank computes with."""

    def __init__(self, context: RankContext) -> None:
        self.settings = context.settings
        self.seed = f"{context.plan.seed}-{context.rank}"
        self.computes: list[ModelledCompute] = []

    def pace(self, module: nn.Module, parts: float) -> None:
        """Make each pass of `module` take 1/`parts` of the step time."""
        settings = self.settings
        compute = ModelledCompute(
            module,
            step_time=settings["step_seconds"] / parts,
            jitter=settings["jitter"],
            slowdown=settings["straggler"].get(socket.gethostname(), 1.0),
            seed=self.seed,
        )
        self.computes.append(compute)

    def take(self) -> Spent:
        """Return the times that all modules have spent since the last call."""
        total = Spent()
        for compute in self.computes:
            spent = compute.take()
            total.modelled_ns += spent.modelled_ns
            total.slept_ns += spent.slept_ns
            total.late_ns += spent.late_ns
            total.spans += spent.spans

        total.spans.sort()
        return total


def make_job(context: RankContext, pacing: Pacing) -> methods.Job:
    """Return the model and the other inputs of a training method.

    Args:
        context: context of the rank.
        pacing: paces the modules that the method computes with.
    """
    settings = context.settings
    model = make_gpt(
        settings["parameters"], settings["layers"], settings["sequence"], settings["seed"]
    )

    return methods.Job(
        rank=context.rank,
        world=context.world_size,
        sites=list(datacenter_ranks(context.plan).values()),
        model=model,
        settings=settings,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=settings["lr"]),
        pace=pacing.pace,
    )


def main(context: RankContext) -> None:
    """Train for `steps` steps."""
    settings = context.settings
    last_step = settings["steps"] - 1
    populate_heap(FLOAT_BYTES * COPIES * settings["parameters"])
    pacing = Pacing(context)
    method = methods.load(settings["method"])(make_job(context, pacing))
    text = Text(settings["sequence"], settings["seed"])
    batch = settings["batch"] * context.world_size
    context.recorder.expect(settings["steps"], "step")
    unix_ns = time.time_ns() - time.monotonic_ns()

    steps = RecordFile(context.run, context.run.rank_train(context.rank))
    with contextlib.closing(steps):
        for step in range(settings["steps"]):
            inputs, targets = text.batch(step, batch)
            start_ns = time.time_ns()
            loss = method.step(inputs, targets)
            if step == last_step:
                method.finish()
            end_ns = time.time_ns()
            spent = pacing.take()
            computed_ns = []

            for begin, end in spent.spans:
                computed_ns += [unix_ns + begin, unix_ns + end]
            record = TrainingStep(
                step=step,
                start_ns=start_ns,
                end_ns=end_ns,
                compute_ns=spent.modelled_ns,
                late_ns=spent.late_ns,
                loss=loss,
                tokens=settings["batch"] * settings["sequence"],
                computed_ns=computed_ns,
            )
            steps.write(record)
