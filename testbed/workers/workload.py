"""Interface between a rank and its workload, which is a folder of workloads/."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, cast

from testbed.core.errors import RunError
from testbed.plan.model import Plan, Rank
from testbed.runfolder.folder import RunDir
from testbed.workers.recorder import Recorder

WORKLOADS = "testbed.workloads"


@dataclass
class RankContext:
    """Arguments of a workload's `main`."""

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
        """The plan's entry of this rank."""
        return self.plan.workers.ranks[self.rank]

    @property
    def recorder(self) -> Recorder:
        """Writer of this rank's operations, whose file is opened at the first use."""
        if self._recorder is None:
            self._recorder = Recorder(self.run, self.rank)

        return self._recorder


class WorkloadMain(Protocol):
    """The module workloads/<name>/main.py.

    Attributes:
        RECORDS_ITSELF: whether `main` records its operations with ``context.recorder``; if not, all
            operations of torch.distributed are recorded, in the phase ``train``.
    """

    RECORDS_ITSELF: bool

    def serve(self, context: RankContext) -> NoReturn:
        """Run commands of other hosts (only where the plan has `remote_shells`)."""

    def main(self, context: RankContext) -> int | None:
        """Do the work of one rank, and return the rank's exit status (None for 0)."""


@dataclass(frozen=True)
class WorkloadTraits:
    """Traits of the ranks of a workload, read from the package workloads/<name> without torch.

    Attributes:
        uses_all_of_torch: False for a workload that needs only tensors and torch.distributed, whose
            ranks start sooner (``USES_ALL_OF_TORCH = False`` in ``__init__.py``).
        in_process_group: False for a workload that makes its process groups itself
            (``IN_PROCESS_GROUP = False``).
    """

    uses_all_of_torch: bool = True
    in_process_group: bool = True


def workload_traits(name: str) -> WorkloadTraits:
    """Return the traits of a workload, or the default traits if `name` is unknown."""
    try:
        package = importlib.import_module(f"{WORKLOADS}.{name}")
    except ModuleNotFoundError:
        return WorkloadTraits()

    return WorkloadTraits(
        uses_all_of_torch=getattr(package, "USES_ALL_OF_TORCH", True),
        in_process_group=getattr(package, "IN_PROCESS_GROUP", True),
    )


def load_workload(name: str) -> WorkloadMain:
    """Execute a new copy of workloads/<name>/main.py, so that ranks share no state with the zygote.

    Raises:
        RunError: the workload does not exist.
    """
    spec = importlib.util.find_spec(f"{WORKLOADS}.{name}.main")
    if spec is None or spec.loader is None:
        raise RunError(f"unknown workload {name!r}")

    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    return cast(WorkloadMain, module)


def shared_workload(name: str) -> WorkloadMain:
    """Return the module workloads/<name>/main.py that the zygote has imported."""
    return cast(WorkloadMain, importlib.import_module(f"{WORKLOADS}.{name}.main"))
