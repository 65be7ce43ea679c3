"""Streaming DiLoCo (arXiv 2501.18512): parts of the model take DiLoCo's outer steps in turn.

In `sync_every` steps the outer gradient of each of the `fragments` is sent once, in
`exchange_dtype`, while training continues. The outer step follows `overlap` (tau) steps later, and
the result is mixed half and half with the rank's parameters, which have changed in the meantime.
Fragment f has the layers f, f + fragments, f + 2 fragments, ...: the paper's strided pattern.
"""

from __future__ import annotations

from . import Job
from .diloco import OuterSteps

KEEP = 0.5  # fraction of a rank's parameters that remains if the exchange overlapped with training


class Train(OuterSteps):
    """Training with outer steps of fragments in turn."""

    def __init__(self, job: Job) -> None:
        fragments = job.settings["fragments"]
        overlap = job.settings["overlap"]
        layers = list(job.model)
        groups = [layers[first::fragments] for first in range(fragments)]
        keep = KEEP if overlap else 0.0
        super().__init__(job, groups, overlap, keep)
