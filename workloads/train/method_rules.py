"""Training methods by name, and their requirements on the settings. Does not import torch.

A method is a file of the folder methods/; the method's name has ``-`` where the file's name has
``_``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.spec.base import Mistake

if TYPE_CHECKING:
    from .settings import Train

METHODS_FOLDER = Path(__file__).with_name("methods")


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    stems = sorted(path.stem for path in METHODS_FOLDER.glob("[a-z]*.py"))
    return tuple(stem.replace("_", "-") for stem in stems)


def _streaming_diloco(settings: Train) -> list[Mistake]:
    problems = []
    fragments = settings.fragments
    overlap = settings.overlap
    if settings.sync_every < fragments:
        problem = f"{fragments} fragments do not fit into {settings.sync_every} steps"
        problems.append(Mistake(("fragments",), problem, "choose at most sync_every"))

    if overlap >= settings.sync_every:
        problem = f"an overlap of {overlap} steps is not shorter than sync_every"
        remedy = "an exchange must end before the next one of the same fragment"
        problems.append(Mistake(("overlap",), problem, remedy))

    return problems


def _pipeline(settings: Train, ranks: int) -> list[Mistake]:
    microbatches = settings.microbatches
    sequences = settings.batch * ranks
    if microbatches >= ranks and sequences % microbatches == 0:
        return []

    problem = (
        f"{settings.batch} x {ranks} sequences cannot be split over {ranks} ranks in "
        f"{microbatches} micro-batches"
    )
    remedy = (
        "choose a number of microbatches that divides the sequences of all ranks, at least "
        "one for each rank"
    )
    return [Mistake(("microbatches",), problem, remedy)]


# Checks of a method's settings alone, and of the settings together with a number of ranks.
RULES: dict[str, Callable[[Train], list[Mistake]]] = {"streaming-diloco": _streaming_diloco}
RANK_RULES: dict[str, Callable[[Train, int], list[Mistake]]] = {"pipeline": _pipeline}


def method_problems(settings: Train) -> list[Mistake]:
    """Return the problems in the settings of the selected method."""
    rule = RULES.get(settings.method)
    return [] if rule is None else rule(settings)


def rank_problems(settings: Train, ranks: int) -> list[Mistake]:
    """Return the problems in the settings of the selected method on `ranks` ranks."""
    rule = RANK_RULES.get(settings.method)
    return [] if rule is None else rule(settings, ranks)
