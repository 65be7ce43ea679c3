"""Derive the capabilities of a machine from the findings about the machine."""

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
    "modelled GPUs": (probes.modelled_gpus,),
    "Vagrant": (probes.vagrant,),
    "Ray": (probes.ray,),
}
# Capabilities that `testbed run` uses without options.
PROCESSES = ("guest, virtual clock",)  # with --isolation process
DEFAULT = (*PROCESSES, "Docker containers")


@dataclass(frozen=True)
class Capability:
    """A capability of the testbed, available on a machine or not.

    Attributes:
        name: Description of the capability.
        findings: Requirements of the capability, in the order in which they were checked.
    """

    name: str
    findings: tuple[Finding, ...]

    @property
    def _first_failure(self) -> Finding | None:
        return next((finding for finding in self.findings if not finding.ok), None)

    @property
    def available(self) -> bool:
        """Whether every requirement is met."""
        return self._first_failure is None

    @property
    def why(self) -> str:
        """Reason why the capability is available or missing, on one line."""
        decisive = self._first_failure or self.findings[-1]
        return decisive.why

    @property
    def mend(self) -> str:
        """Command that fixes the first failure; empty if there is none."""
        failure = self._first_failure
        return "" if failure is None else failure.mend

    def record(self) -> dict[str, Any]:
        """Return the capability as `testbed doctor -f json` prints it."""
        checks = [asdict(finding) for finding in self.findings]
        return {
            "name": self.name,
            "available": self.available,
            "why": self.why,
            "mend": self.mend,
            "checks": checks,
        }


def capabilities(machine: Machine) -> list[Capability]:
    """Return every capability of `machine`, the defaults first."""
    judged: list[Capability] = []
    for name, needed in CAPABILITIES.items():
        findings = [probe(machine) for probe in needed]
        capability = Capability(name, tuple(findings))
        judged.append(capability)
    return judged


def default_runs(judged: Sequence[Capability]) -> bool:
    """Return whether `testbed run` works without options."""
    for capability in judged:
        if capability.name in DEFAULT and not capability.available:
            return False
    return True


def process_runs(judged: Sequence[Capability]) -> bool:
    """Return whether `testbed run --isolation process` works."""
    return all(capability.available for capability in judged if capability.name in PROCESSES)
