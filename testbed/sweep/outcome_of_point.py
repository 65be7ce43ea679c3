"""What a point says to the searches of `testbed find`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PointOutcome:
    """What a point says to a search.

    Attributes:
        row: Measured columns of the run (see `testbed.sweep.results`); empty after a failure.
        problem: Why the run has no figures; empty if it has.
        doubts: Why the run is not faithful.
    """

    row: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    doubts: Sequence[str] = ()
