"""What a machine can do, from the findings about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from testbed.doctor import probes
from testbed.doctor.machine import Machine
from testbed.doctor.probes import Finding, Probe

GUEST: tuple[Probe, ...] = (
    probes.architecture,
    probes.tracing,
    probes.memory,
    probes.cache,
    probes.disk,
    probes.python,
    probes.programs,
    probes.kernel,
)
VIRTUAL = (*GUEST, probes.virtual_time)
HERE: tuple[Probe, ...] = (
    probes.rights,
    probes.netem,
    probes.cgroups,
    probes.cache,
    probes.python,
    probes.programs,
)
CAPABILITIES: dict[str, tuple[Probe, ...]] = {
    "guest, virtual clock": VIRTUAL,
    "guest, real clock": GUEST,
    "guest kept to its run folder": (probes.confinement,),
    "here": HERE,
    "Docker containers": (probes.docker,),
    "captures": (probes.tcpdump,),
    "Vagrant": (probes.vagrant,),
    "Ray": (probes.ray,),
}
DEFAULT = (
    "guest, virtual clock",
    "Docker containers",
)  # what `testbed run` uses unless it is told otherwise


@dataclass(frozen=True)
class Capability:
    """Something that the testbed can do on a machine, or not: the first finding that is not well
    says why.
    """

    name: str
    findings: tuple[Finding, ...]

    @property
    def _trouble(self) -> Finding | None:
        return next((finding for finding in self.findings if not finding.ok), None)

    @property
    def available(self) -> bool:
        """Whether it can be done."""
        return self._trouble is None

    @property
    def why(self) -> str:
        """The reason, in a line."""
        return self._trouble.why if self._trouble else self.findings[-1].why

    @property
    def mend(self) -> str:
        """The command that mends it; empty where nothing needs to be."""
        return self._trouble.mend if self._trouble else ""

    def record(self) -> dict[str, Any]:
        """As `testbed doctor -f json` prints it."""
        findings = [asdict(finding) for finding in self.findings]
        return {
            "name": self.name,
            "available": self.available,
            "why": self.why,
            "mend": self.mend,
            "checks": findings,
        }


def capabilities(machine: Machine) -> list[Capability]:
    """All of them, the default ones first."""
    return [
        Capability(name, tuple(probe(machine) for probe in wanted))
        for name, wanted in CAPABILITIES.items()
    ]


def default_runs(found: Sequence[Capability]) -> bool:
    """Whether `testbed run` works as it is without options."""
    return all(capability.available for capability in found if capability.name in DEFAULT)
