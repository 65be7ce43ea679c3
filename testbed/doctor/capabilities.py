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
    probes.kernel,
)
VIRTUAL: tuple[Probe, ...] = (*GUEST, probes.virtual_time)
HERE: tuple[Probe, ...] = (
    probes.rights,
    probes.netem,
    probes.cgroups,
    probes.cache,
    probes.python,
)
CAPABILITIES: dict[str, tuple[Probe, ...]] = {
    "guest, virtual clock": VIRTUAL,
    "guest, real clock": GUEST,
    "guest sandbox": (probes.confinement,),
    "here": HERE,
    "Docker containers": (probes.docker,),
    "captures": (probes.tcpdump,),
    "deployed networks": (probes.programs,),
    "Vagrant": (probes.vagrant,),
    "Ray": (probes.ray,),
}
# What `testbed run` uses without options.
PROCESSES = ("guest, virtual clock",)  # with --isolation process
DEFAULT = (*PROCESSES, "Docker containers")


@dataclass(frozen=True)
class Capability:
    """Something that the testbed can do on a machine, or not.

    Attributes:
        name: What the testbed can do.
        findings: What the capability depends on, in the order in which it was checked.
    """

    name: str
    findings: tuple[Finding, ...]

    @property
    def _first_failure(self) -> Finding | None:
        return next((finding for finding in self.findings if not finding.ok), None)

    @property
    def available(self) -> bool:
        """Whether every finding is as it should be."""
        return self._first_failure is None

    @property
    def why(self) -> str:
        """The reason, on one line."""
        decisive = self._first_failure or self.findings[-1]
        return decisive.why

    @property
    def mend(self) -> str:
        """The command that mends the first failure; empty if there is none."""
        failure = self._first_failure
        return "" if failure is None else failure.mend

    def record(self) -> dict[str, Any]:
        """Write the capability as `testbed doctor -f json` prints it."""
        checks = [asdict(finding) for finding in self.findings]
        return {
            "name": self.name,
            "available": self.available,
            "why": self.why,
            "mend": self.mend,
            "checks": checks,
        }


def capabilities(machine: Machine) -> list[Capability]:
    """Judge every capability of `machine`, the default ones first."""
    judged: list[Capability] = []
    for name, needed in CAPABILITIES.items():
        findings = [probe(machine) for probe in needed]
        capability = Capability(name, tuple(findings))
        judged.append(capability)
    return judged


def default_runs(judged: Sequence[Capability]) -> bool:
    """Whether `testbed run` works without options."""
    for capability in judged:
        if capability.name in DEFAULT and not capability.available:
            return False
    return True


def process_runs(judged: Sequence[Capability]) -> bool:
    """Whether `testbed run --isolation process` works."""
    return all(capability.available for capability in judged if capability.name in PROCESSES)
