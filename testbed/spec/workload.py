"""Workload files: ``workload: NAME``, and settings of the model in the workload's folder."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from testbed.core.errors import InputError
from testbed.core.suggestions import suggest
from testbed.spec import yaml_reader
from testbed.spec.base import Count, Strict, input_error
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.presets import WORKLOADS
from testbed.spec.yaml_reader import Section

PACKAGE = "testbed.workloads"
MIB = 2**20
MAX_RANKS_PER_HOST = 1024
# Of a program that imports what it likes.
PROGRAM_MEMORY = 250 * MIB
TENSORS_PER_RANK = 4  # such as parameters, gradients, an optimiser's state and a copy


class Workload(Strict):
    """Base of all workloads' settings.

    A subclass narrows `workload` to a literal, with the workload's name as the default.
    """

    workload: str
    description: str = Field("", description="one-line description")
    ranks_per_host: Annotated[Count, Field(le=MAX_RANKS_PER_HOST)] = 1

    def model_post_init(self, context: Any) -> None:
        """Mark `workload` as set, so that `to_yaml` writes the name even if it is the default."""
        self.model_fields_set.add("workload")

    # For a setting, those that it replaces: ``--set`` of the one removes the others of the file.
    replaces: ClassVar[Mapping[str, Sequence[str]]] = {}

    @property
    def divisor(self) -> int:
        """Divisor of all rates of the topology, for a workload that scales its model down."""
        return 1

    def scaled_down(self, factor: int) -> Workload | None:
        """Return the workload with `divisor` multiplied by `factor`; None if impossible."""
        return None

    @property
    def placed(self) -> Sequence[PlacedWorkload]:
        """The workloads that run at the same time; empty: only this one."""
        return ()

    @property
    def has_modelled_gpus(self) -> bool:
        """Whether the hosts have modelled GPUs."""
        return False

    @property
    def longest_pause_ns(self) -> int:
        """Maximum computing time of a rank between two exchanges, in ns."""
        return 0

    @property
    def hosts_named(self) -> Iterable[str]:
        """Hosts that the settings name; each must exist."""
        return ()

    def settings(self, ranks: int) -> dict[str, Any]:
        """Return the settings for `ranks` ranks, in base units, as JSON values."""
        raise NotImplementedError

    def folders(self) -> list[Path]:
        """Return folders that hosts must see besides the testbed and installed packages."""
        return []

    @property
    def starts_ranks_itself(self) -> bool:
        """Whether a host starts a single process, which starts the host's ranks."""
        return False

    @property
    def starts_from_first_host(self) -> bool:
        """Whether only the first host starts a process, which starts the ranks of all hosts."""
        return False

    @property
    def needs_remote_shells(self) -> bool:
        """Whether hosts must let other hosts start programs on them."""
        return False

    def for_hosts(self, addresses: Mapping[str, str]) -> Workload:
        """Return the workload as it runs on the hosts of a topology.

        Args:
            addresses: the address of each host, by name, in the order of ranks.

        Raises:
            UnitError: the workload cannot run on these hosts.
        """
        del addresses
        return self

    @property
    def sends_only_tensors(self) -> bool:
        """Whether a rank sends nothing larger than its largest tensor."""
        return True

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Return the size in bytes of a rank's largest tensor."""
        raise NotImplementedError

    @property
    def rank_program_bytes(self) -> int:
        """Memory in bytes of a rank without its tensors."""
        return PROGRAM_MEMORY

    def rank_tensors_bytes(self, ranks: int) -> int:
        """Return the memory in bytes of all tensors of a rank; on modelled GPUs they have none."""
        if self.has_modelled_gpus:
            return 0
        return TENSORS_PER_RANK * self.largest_tensor_bytes(ranks)


@dataclass(frozen=True)
class PlacedWorkload:
    """One of several workloads that run at the same time.

    Attributes:
        name: Name of the job.
        workload: What the job runs.
        hosts: Hosts of the job, and datacenters with all their hosts; empty: all hosts.
        start_ns: Time from the start of the workers to that of the job.
    """

    name: str
    workload: Workload
    hosts: tuple[str, ...]
    start_ns: int


def workload_module(workload: str, module: str) -> ModuleType:
    """Import the module workloads/`workload`/`module`.py.

    Raises:
        ModuleNotFoundError: The module does not exist.
    """
    return importlib.import_module(f"{PACKAGE}.{workload}.{module}")


def registry() -> dict[str, type[Workload]]:
    """Return all workloads by name."""
    package = importlib.import_module(PACKAGE)
    for module in pkgutil.iter_modules(package.__path__, f"{PACKAGE}."):
        settings_module = f"{module.name}.settings"
        if importlib.util.find_spec(settings_module) is not None:
            importlib.import_module(settings_module)

    workloads: dict[str, type[Workload]] = {}
    for model in Workload.__subclasses__():
        name = model.model_fields["workload"].default
        workloads[name] = model

    return workloads


def load_workload(name_or_path: str | Path, overrides: Iterable[Override] = ()) -> Workload:
    """Load a workload.

    Args:
        name_or_path: The name of a preset, or the path of a file.
        overrides: Settings of ``--set`` that replace values of the file.

    Raises:
        InputError: The workload does not exist or is wrong; the message lists every error.
    """
    return _validated(yaml_reader.load(WORKLOADS.find(name_or_path)), overrides)


def changed_workload(workload: Workload, overrides: Iterable[Override]) -> Workload:
    """Return a workload with other values of some settings.

    Args:
        workload: The workload.
        overrides: Settings of ``--set`` that replace values.

    Raises:
        InputError: A setting does not exist or is wrong.
    """
    source = yaml_reader.parse(workload.to_yaml(), None)
    assert isinstance(source, Section)
    return _validated(source, overrides)


def _validated(source: Section, overrides: Iterable[Override]) -> Workload:
    overrides = list(overrides)
    _remove_replaced(source, overrides)
    apply_overrides(source, overrides)
    model = _model_of(source)
    try:
        return model.model_validate(source)
    except ValidationError as error:
        locate = partial(yaml_reader.place_of, source)
        raise input_error(error, model, locate) from error


def _remove_replaced(source: Section, overrides: Iterable[Override]) -> None:
    """Remove the settings of a file that settings of ``--set`` replace."""
    model = registry().get(str(source.get("workload")), Workload)
    for override in overrides:
        if override.value is None:
            continue
        for name in model.replaces.get(override.path[0], ()):
            source.pop(name, None)


def _model_of(source: Section) -> type[Workload]:
    """Return the model of the workload that a file names."""
    known = registry()
    name = source.get("workload")
    if name in known:
        return known[name]

    place = yaml_reader.place_of(source, ("workload",))
    if name is None:
        what = "required key is missing"
        remedy = f"such as workload: {next(iter(known))}"
    else:
        what = f"unknown workload {name!r}"
        remedy = suggest(name, known, "workloads")

    raise InputError(what, place=place, remedy=remedy)
