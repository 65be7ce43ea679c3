"""Workload files: ``workload: NAME`` and the settings of that workload, whose model is in the
workload's own folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field, ValidationError

from testbed.core.errors import InputError
from testbed.spec import yaml_reader
from testbed.spec.base import Count, Strict, input_error, suggest
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.presets import WORKLOADS

PACKAGE = "testbed.workloads"


class Workload(Strict):
    """Base of all workloads' settings. A subclass narrows `workload` to a literal with its name as
    the default.
    """

    workload: str
    description: str = Field("", description="one line")
    ranks_per_host: Count = 1

    def model_post_init(self, context: Any) -> None:
        """Make `to_yaml` write which workload it is, even where nobody said so."""
        self.model_fields_set.add("workload")

    @property
    def divisor(self) -> int:
        """By how much every rate of the topology is divided: that of a workload with a smaller
        model.
        """
        return 1

    @property
    def longest_pause_ns(self) -> int:
        """How long a rank may compute between two exchanges."""
        return 0

    @property
    def hosts_named(self) -> Iterable[str]:
        """Hosts that the settings name; each must exist."""
        return ()

    def settings(self, ranks: int) -> dict[str, Any]:
        """The settings in base units, as JSON values, for `ranks` workers."""
        raise NotImplementedError

    def folders(self) -> list[Path]:
        """Folders of this machine that its hosts have to see, besides the testbed and what is
        installed.
        """
        return []

    @property
    def starts_ranks_itself(self) -> bool:
        """Whether a host starts only one process, which starts the host's ranks."""
        return False

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Bytes of the largest tensor that a rank holds."""
        raise NotImplementedError


def workload_module(workload: str, module: str) -> ModuleType:
    """Import the module workloads/`workload`/`module`.py.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    return importlib.import_module(f"{PACKAGE}.{workload}.{module}")


def registry() -> dict[str, type[Workload]]:
    """All workloads by name."""
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}."):
        if importlib.util.find_spec(f"{module.name}.settings") is not None:
            importlib.import_module(f"{module.name}.settings")
    return {model.model_fields["workload"].default: model for model in Workload.__subclasses__()}


def load_workload(name_or_path: str | Path, overrides: Iterable[Override] = ()) -> Workload:
    """The workload of a preset's name or of a file, with ``--set`` overrides.

    Raises:
        InputError: there is no such workload, or it is wrong; names every error with its place.
    """
    source = yaml_reader.load(WORKLOADS.find(name_or_path))
    apply_overrides(source, overrides)
    known = registry()
    name = source.get("workload")
    if name not in known:
        what = (
            "it does not say which workload it is" if name is None else f"unknown workload {name!r}"
        )
        remedy = (
            f"write workload: {next(iter(known))}"
            if name is None
            else suggest(name, known, "workloads")
        )
        raise InputError(what, place=yaml_reader.place_of(source, ("workload",)), remedy=remedy)
    try:
        return known[name].model_validate(source)
    except ValidationError as error:
        raise input_error(
            error, known[name], lambda loc: yaml_reader.place_of(source, loc)
        ) from error
