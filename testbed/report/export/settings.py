"""The settings of a run as a flat mapping, for tools that list the parameters of runs."""

from __future__ import annotations

import json

from testbed.core.units import format_rate, format_time
from testbed.plan.model import Plan


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
        settings[f"workload.{key}"] = value if is_text else json.dumps(value, default=str)
    for link in network.wan:
        for direction in link.directions:
            name = f"wan.{direction.source}-{direction.target}"
            settings[f"{name}.rate"] = format_rate(direction.bottleneck.rate_bps)
            settings[f"{name}.delay"] = format_time(direction.fibre.delay_ns)
    for package, version in plan.versions.items():
        settings[f"versions.{package}"] = version
    return settings
