"""Measure the memory that a rank takes of a guest, and compare it with the estimate of the plan.

Runs two-sites with two numbers of ranks, a rank on each host, and prints the guest's memory that
the guest's kernel has touched at most (RssShmem of its process in /proc), what the plan estimates,
and both for a rank more. A page that has been touched stays so, also if it is free again.

usage: scripts/memory.py FEWER MORE [WORD ...]
       WORD: of `testbed run two-sites`; default: collectives --isolation process
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from scripts.bench_gpus import sessions_of, shared_bytes

MIB = 2**20
POLL_S = 0.05
DEFAULT = ["collectives", "--isolation", "process"]
RUN = [sys.executable, "-m", "testbed", "run", "two-sites", "--quiet"]


class Memory(NamedTuple):
    """Memory of a guest in bytes.

    Attributes:
        touched: what its kernel has touched at most.
        estimated: its size.
    """

    touched: int
    estimated: int


def measure(ranks: int, words: list[str]) -> Memory:
    """Run with a number of ranks, half of them in each datacenter; exit if the run fails."""
    with tempfile.TemporaryDirectory(prefix="testbed-memory-") as scratch:
        out = Path(scratch, "run")
        options = ["--set", f"topology.datacenters.*.hosts={ranks // 2}", "--out", str(out)]
        with Path(scratch, "output").open("w+") as output:
            process = subprocess.Popen([*RUN, *options, *words], stdout=output, stderr=output)
            touched = 0
            while process.poll() is None:
                time.sleep(POLL_S)
                for session in sessions_of(process.pid):
                    touched = max(touched, shared_bytes(session))

            if process.returncode != 0:
                output.seek(0)
                sys.exit(f"the run of {ranks} ranks failed:\n{output.read()}")
        plan = json.loads((out / "plan.json").read_text())
        return Memory(touched, plan["guest_memory_bytes"])


def main() -> None:
    """Print the memory of two runs, and the difference for each rank."""
    if len(sys.argv) < 3:
        sys.exit(str(__doc__))
    fewer, more = map(int, sys.argv[1:3])
    words = sys.argv[3:] or DEFAULT
    print(f"{'ranks':<8}{'touched MiB':>12}{'estimated MiB':>15}", flush=True)
    found: list[Memory] = []
    for ranks in (fewer, more):
        memory = measure(ranks, words)
        found.append(memory)
        touched, estimated = memory.touched / MIB, memory.estimated / MIB
        print(f"{ranks:<8}{touched:>12.0f}{estimated:>15.0f}", flush=True)

    first, last = found
    each = MIB * (more - fewer)
    touched = (last.touched - first.touched) / each
    estimated = (last.estimated - first.estimated) / each
    print(f"{'1 more':<8}{touched:>12.1f}{estimated:>15.1f}")


if __name__ == "__main__":
    main()
