"""The settings of a run as a flat mapping, for tools that list the parameters of runs."""

from __future__ import annotations

import json

from testbed.core.plain_text import in_short
from testbed.core.units import format_rate, format_time
from testbed.plan.model import Plan

LONGEST_VALUE = 500  # characters; the programs of a replay are longer


def flat_settings(plan: Plan) -> dict[str, str]:
    """Return the settings of a run by dotted name, as texts."""
    network, workers = plan.network, plan.workers
    settings = {
        "topology": network.name,
        "workload": workers.workload,
        "ranks": str(len(workers.ranks)),
        "isolation": workers.isolation,
        "clock": plan.clock,
        "seed": str(plan.seed),
        "tcp.congestion_control": network.tcp.congestion_control,
    }
    for key, value in workers.settings.items():
        is_text = isinstance(value, str)
        text = value if is_text else json.dumps(value, default=str)
        settings[f"workload.{key}"] = in_short(text, LONGEST_VALUE)
    for link in network.wan:
        for direction in link.directions:
            name = f"wan.{direction.source}-{direction.target}"
            settings[f"{name}.rate"] = format_rate(direction.bottleneck.rate_bps)
            settings[f"{name}.delay"] = format_time(direction.fibre.delay_ns)
    for package, version in plan.versions.items():
        settings[f"versions.{package}"] = version
    return settings
