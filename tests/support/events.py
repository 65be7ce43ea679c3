"""A triangle of datacenters and what happens to it."""

from pathlib import Path

from testbed.plan.model import Network, Plan
from testbed.plan.resolve import resolve, resolve_network
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

SECOND = 10**9  # ns
GBIT = 10**9  # bit/s
PROCESSES = RunOptions(isolation="process")
TRIANGLE = """
datacenters: {a: {}, b: {}, c: {}}
wan:
  - {between: [a, b], rate: 10 Gbit/s, delay: 10 ms, shares: duct}
  - {between: [b, c], rate: 10 Gbit/s, delay: 20 ms}
  - {between: [a, c], rate: 10 Gbit/s, delay: 30 ms, shares: duct}
convergence: 300 ms
events:
"""


def topology(tmp_path: Path, *events: str) -> Topology:
    """The triangle with `events`, read from the file mine.yaml."""
    path = tmp_path / "mine.yaml"
    lines = [f"  - {event}\n" for event in events]
    path.write_text(TRIANGLE.lstrip("\n") + "".join(lines))
    return Topology.load(path)


def network(tmp_path: Path, *events: str) -> Network:
    """The resolved triangle with `events`."""
    return resolve_network(topology(tmp_path, *events))


def collectives_plan(tmp_path: Path, *events: str) -> Plan:
    """The plan of running collectives on the triangle with `events`."""
    return resolve(topology(tmp_path, *events), load_workload("collectives", []), PROCESSES)
