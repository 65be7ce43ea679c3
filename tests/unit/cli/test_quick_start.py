"""What a command imports before it starts anything."""

import subprocess
import sys

# Each takes a tenth of a second or more. The report imports some of them while a guest boots.
SLOW = ("duckdb", "matplotlib", "networkx", "numpy", "plotly", "polars", "ray", "scapy", "torch")
PLAN = """
import sys
import testbed.cli.main
from testbed.plan.resolve import resolve
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
resolve(Topology.load("two-sites"), load_workload("collectives"), machine_memory_bytes=2**40)
print(sorted(set(sys.argv[1:]) & sys.modules.keys()))
"""


def test_planning_imports_no_slow_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAN, *SLOW], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
