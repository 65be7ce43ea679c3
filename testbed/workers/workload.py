"""The interface between a rank and its workload, which is a folder of workloads/."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from testbed.core.errors import RunError
from testbed.plan.model import Plan, Rank
from testbed.runfolder.folder import RunDir
from testbed.workers.recorder import Recorder

WORKLOADS = "testbed.workloads"


@dataclass
class RankContext:
    """What a workload's `main` is given."""

    plan: Plan
    run: RunDir
    rank: int
    _recorder: Recorder | None = field(default=None, init=False)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.plan.workers.ranks)

    @property
    def settings(self) -> dict[str, Any]:
        """The workload's settings, in base units."""
        return self.plan.workers.settings

    @property
    def planned_rank(self) -> Rank:
        """This rank in the plan."""
        return self.plan.workers.ranks[self.rank]

    @property
    def recorder(self) -> Recorder:
        """Writes this rank's operations; the file is opened at the first use."""
        if self._recorder is None:
            self._recorder = Recorder(self.run, self.rank)

        return self._recorder


class WorkloadMain(Protocol):
    """The module workloads/<name>/main.py.

    Attributes:
        RECORDS_ITSELF: whether `main` records its operations with ``context.recorder``; otherwise
            everything that torch.distributed does is recorded, in the phase ``train``.
    """

    RECORDS_ITSELF: bool

    def main(self, context: RankContext) -> int | None:
        """Do the work of one rank; returns its exit status, None for 0."""


@dataclass(frozen=True)
class WorkloadTraits:
    """What the package workloads/<name> says about its ranks, without importing torch.

    Attributes:
        uses_all_of_torch: False for a workload that needs tensors and torch.distributed only: its
            ranks start sooner (``USES_ALL_OF_TORCH = False`` in ``__init__.py``).
        in_process_group: False for a workload that makes its process groups itself
            (``IN_PROCESS_GROUP = False``).
    """

    uses_all_of_torch: bool = True
    in_process_group: bool = True


def workload_traits(name: str) -> WorkloadTraits:
    """Return the traits of a workload; those of any workload if `name` is not known."""
    try:
        package = importlib.import_module(f"{WORKLOADS}.{name}")
    except ModuleNotFoundError:
        return WorkloadTraits()

    return WorkloadTraits(
        uses_all_of_torch=getattr(package, "USES_ALL_OF_TORCH", True),
        in_process_group=getattr(package, "IN_PROCESS_GROUP", True),
    )


def load_workload(name: str) -> WorkloadMain:
    """Execute workloads/<name>/main.py afresh, so that a rank shares no state with the zygote.

    Raises:
        RunError: there is no such workload.
    """
    spec = importlib.util.find_spec(f"{WORKLOADS}.{name}.main")
    if spec is None or spec.loader is None:
        raise RunError(f"unknown workload {name!r}")

    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    return cast(WorkloadMain, module)


def shared_workload(name: str) -> WorkloadMain:
    """Return workloads/<name>/main.py as the zygote has imported it."""
    return cast(WorkloadMain, importlib.import_module(f"{WORKLOADS}.{name}.main"))
