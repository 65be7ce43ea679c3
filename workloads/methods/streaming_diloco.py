"""Streaming DiLoCo (arXiv 2501.18512): DiLoCo of `fragments` parts of the model in turn, while training goes on.

Every `sync_every` / `fragments` steps the next fragment's outer gradient leaves, in `exchange_dtype`; `overlap` (tau)
steps later its outer step is taken, and the rank's own parameters are mixed half and half with the result, for
they have moved on meanwhile. Fragment f has the layers f, f + fragments, f + 2 fragments, ...: the paper's strided
pattern.
"""

from __future__ import annotations

from workloads.methods import Job, Method
from workloads.methods.diloco import Fragment

KEEP = 0.5  # of a rank's own parameters when the exchange overlapped with training


class Train(Method):
    """Outer steps in turn."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        settings, layers = job.settings, list(self.model)
        self.fragments = [
            Fragment((p for layer in layers[f :: settings["fragments"]] for p in layer.parameters()), job)
            for f in range(settings["fragments"])
        ]
        self.every = settings["sync_every"] // settings["fragments"]
        self.overlap = settings["overlap"]
        self.steps = 0
        self.under_way: list[tuple[int, Fragment]] = []  # with the step after which each is taken

    def update(self) -> None:
        """An inner step; then send the fragment whose turn it is, and take those whose time has come."""
        super().update()
        self.steps += 1
        turn, rest = divmod(self.steps, self.every)
        if rest == 0:
            fragment = self.fragments[(turn - 1) % len(self.fragments)]
            fragment.send()
            self.under_way.append((self.steps + self.overlap, fragment))
        while self.under_way and self.under_way[0][0] <= self.steps:
            self.under_way.pop(0)[1].receive(KEEP if self.overlap else 0.0)

    def finish(self) -> None:
        """Take what is still under way."""
        for _step, fragment in self.under_way:
            fragment.receive(KEEP)
