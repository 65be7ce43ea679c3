"""Streaming DiLoCo (arXiv 2501.18512): DiLoCo of `fragments` parts of the model in turn, while
training goes on.

In `sync_every` steps each fragment's outer gradient leaves once, in `exchange_dtype`; `overlap`
(tau) steps later its outer step is taken, and the rank's own parameters are mixed half and half
with the result, for they have moved on meanwhile. Fragment f has the layers f, f + fragments, f + 2
fragments, ...: the paper's strided pattern.
"""

from __future__ import annotations

from . import Job
from .diloco import OuterSteps

KEEP = 0.5  # of a rank's own parameters when the exchange overlapped with training


class Train(OuterSteps):
    """Outer steps in turn."""

    def __init__(self, job: Job) -> None:
        settings, layers = job.settings, list(job.model)
        groups = [layers[f :: settings["fragments"]] for f in range(settings["fragments"])]
        super().__init__(job, groups, settings["overlap"], KEEP if settings["overlap"] else 0.0)
