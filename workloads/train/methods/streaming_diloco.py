"""Streaming DiLoCo (arXiv 2501.18512): parts of the model take DiLoCo's outer steps in turn.

In `sync_every` steps the outer gradient of each of the `fragments` leaves once, in
`exchange_dtype`, while training continues. `overlap` (tau) steps later its outer step is taken, and
the rank's own parameters, which have changed meanwhile, are mixed half and half with the result.
Fragment f has the layers f, f + fragments, f + 2 fragments, ...: the paper's strided pattern.
"""

from __future__ import annotations

from . import Job
from .diloco import OuterSteps

KEEP = 0.5  # of a rank's own parameters when the exchange overlapped with training


class Train(OuterSteps):
    """Outer steps in turn."""

    def __init__(self, job: Job) -> None:
        fragments = job.settings["fragments"]
        overlap = job.settings["overlap"]
        layers = list(job.model)
        groups = [layers[first::fragments] for first in range(fragments)]
        keep = KEEP if overlap else 0.0
        super().__init__(job, groups, overlap, keep)
