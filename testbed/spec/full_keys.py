"""Full keys for a key without its target: ``topology.wan.iowa-ohio.delay`` for ``wan.iowa-…``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from testbed.core.suggestions import nearest
from testbed.spec.options import experiment_options, run_options
from testbed.spec.overrides import WILDCARD
from testbed.spec.topology import Datacenter, Tcp, Topology
from testbed.spec.wan import LinkSettings
from testbed.spec.workload import registry


def full_keys(path: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return the keys that a key may mean: its own name in a target, or else a similar name.

    Args:
        path: Parts of the key, without a target.
        targets: Allowed first parts of a key.
    """
    first, *rest = path
    spelt_alike: list[str] = []
    similar: list[str] = []
    for section, names in _names_by_section(targets).items():
        if first in names:
            spelt_alike.append(".".join([section, first, *rest]))
        for name in nearest(first, names, limit=1):
            similar.append(".".join([section, name, *rest]))
    return spelt_alike or similar[:1]


def flag_of(path: Sequence[str]) -> str | None:
    """Return the flag of a run's option from its key, with or without ``run.``; None for others."""
    names = path[1:] if path[0] == "run" else path
    for option in run_options():
        if [option.name] == list(names):
            return option.flag
    return None


def _names_by_section(targets: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys of each target, and of the parts of a topology, by what precedes them."""
    workload_keys: dict[str, None] = {}
    for model in registry().values():
        workload_keys.update(dict.fromkeys(model.model_fields))

    sections: Mapping[str, Iterable[str]] = {
        "topology": Topology.model_fields,
        f"topology.wan.{WILDCARD}": LinkSettings.model_fields,
        f"topology.datacenters.{WILDCARD}": Datacenter.model_fields,
        "topology.tcp": Tcp.model_fields,
        "workload": workload_keys,
        "run": [option.name for option in experiment_options()],
    }
    known: dict[str, list[str]] = {}
    for section, names in sections.items():
        target, _, _ = section.partition(".")
        if target in targets:
            known[section] = list(names)
    return known
