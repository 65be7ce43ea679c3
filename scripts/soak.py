"""Soak: random small runs that end in random ways, for as long as you like, with a census around each.

usage: scripts/soak.py [--minutes N] [--seed N] [--folder FOLDER]

Reports what is left behind (processes, namespaces, links, queues, mounts, control groups, shared memory, temporary
files, sockets), what hangs, and exit statuses that are none of the documented ones: exit status 1 if there is any.
What failed stays in FOLDER. At the end it tells by how much the memory in use on this machine has grown.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TESTS = PROJECT / "tests"
sys.path[:0] = [str(PROJECT), str(TESTS)]
from cases import TESTBED, try_run  # noqa: E402
from census import differences  # noqa: E402
from world import can_make_worlds, in_a_world  # noqa: E402

INSIDE = "TESTBED_SOAK_WORLD"
STATUSES = {"": {0}, "SIGINT": {130, 0}, "SIGTERM": {130, 0}, "SIGKILL": {-9, 0}}
LONGEST_RUN_S = 25.0  # of wall time until a signal
JOBS = {
    "collectives": ["workload.ops=[all_reduce, broadcast]", "workload.sizes=[4 KiB, 1 MiB]", "workload.iterations=2"],
    "endless": ["workload.ops=[all_reduce]", "workload.sizes=[64 KiB]", "workload.iterations=1000000"],
    "train": ["workload.steps=3", "workload.step_time=50 ms"],
}


def topology(drawn: random.Random) -> str:
    """Two or three datacenters with a host or two each; all pairs are linked."""
    names = ["oslo", "bern", "lima"][: drawn.choice([2, 2, 3])]
    lines = ["name: soak", "datacenters:"]
    lines += [f"  {name}: {{hosts: {drawn.choice([1, 1, 2])}, nic: {{rate: 10 Gbit/s}}}}" for name in names]
    rate, delay = drawn.choice(["100 Mbit/s", "1 Gbit/s", "10 Gbit/s"]), drawn.choice([1, 10, 80])
    loss = drawn.choice(["", ", loss: 0.1 %"])
    return "\n".join([*lines, "wan:", f"  - {{mesh: [{', '.join(names)}], rate: {rate}, delay: {delay} ms{loss}}}", ""])


def words(drawn: random.Random, folder: Path) -> list[str]:
    """A random run."""
    path = folder / "topology.yaml"
    path.write_text(topology(drawn))
    name = drawn.choices(list(JOBS), [4, 3, 2])[0]
    options = ["--seed", str(drawn.randrange(1000)), "--out", str(folder / "run")]
    options += ["--isolation", drawn.choices(["process", "container"], [3, 1])[0]]
    options += ["--clock", drawn.choices(["virtual", "real"], [4, 1])[0], "--capture", drawn.choice(["none", "wan"])]
    sets = [word for value in JOBS[name] for word in ("--set", value)]
    return [*TESTBED, "run", str(path), name.replace("endless", "collectives"), *sets, *options]


def used_memory() -> int:
    """Bytes of this machine's memory that are not available."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total - available


def try_one(drawn: random.Random, folder: Path) -> dict[str, Any]:
    """A random run, and what is wrong with how it ended."""
    run = words(drawn, folder)
    end = drawn.choice(
        ["SIGINT", "SIGTERM", "SIGKILL"] if "1000000" in " ".join(run) else ["", "", "SIGINT", "SIGKILL"]
    )
    environment = {**os.environ, "TESTBED_CACHE": str(folder.parent / "cache"), "COLUMNS": "200"}
    after_s = drawn.uniform(0.1, LONGEST_RUN_S)
    found: dict[str, Any] = try_run(run, environment, folder / "log", end=end, after_s=after_s)
    left = differences(found.pop("before"), found.pop("after"))
    troubles = [f"left {kind}: {new}" for kind, (new, _gone) in left.items() if new]
    troubles += [f"took away {kind}: {gone}" for kind, (_new, gone) in left.items() if gone]
    if found["status"] not in STATUSES[end]:
        troubles.append(f"exit status {found['status']}")
    return {**found, "troubles": troubles, "memory": used_memory()}


def soak(minutes: float, seed: int, folder: Path) -> int:
    """Until the time is over; 1 if there was trouble."""
    drawn = random.Random(seed)
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    deadline, number, bad, first = time.monotonic() + 60 * minutes, 0, 0, 0
    counts: dict[str, int] = {}
    while time.monotonic() < deadline:
        number += 1
        (place := folder / f"{number:04}").mkdir()
        found = try_one(drawn, place)
        first = first or found["memory"]
        counts[found["end"] or "complete"] = counts.get(found["end"] or "complete", 0) + 1
        print(
            f"{number:4} {found['end'] or 'complete':8} status {found['status']} {found['seconds']:6.1f} s", flush=True
        )
        if found["troubles"]:
            bad += 1
            (place / "trouble.json").write_text(json.dumps(found, indent=1))
            print("     " + "\n     ".join(found["troubles"]) + f"\n     see {place}", flush=True)
        else:
            shutil.rmtree(place)
    growth = used_memory() - first
    told = ", ".join(f"{count} {how}" for how, count in sorted(counts.items()))
    print(f"{number} runs ({told}), {bad} with trouble; memory in use grew by {growth / 2**20:.0f} MiB; seed {seed}")
    return 1 if bad else 0


def main() -> int:
    """Parse the command line, and go on in a world of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--folder", type=Path, help="for logs and what fails [default: a new one in /var/tmp]")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="testbed-soak-", dir="/var/tmp"))).absolute()
    if INSIDE in os.environ:
        return soak(options.minutes, options.seed, folder)
    if not can_make_worlds():
        print("namespaces cannot be made here; run as root, or see testbed doctor", file=sys.stderr)
        return 3
    from testbed.guest.kernel import ensure_kernel  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    kernel = ensure_kernel()
    kept = [folder, PROJECT, Path(sys.prefix), Path(sys.base_prefix), kernel.path.parent]
    again = [sys.executable, __file__, "--minutes", options.minutes, "--seed", options.seed, "--folder", folder]
    environment = {
        **os.environ, INSIDE: "1", "TESTBED_KERNEL": str(kernel.path), "PYTHONPATH": f"{PROJECT}:{TESTS}",
    }  # fmt: skip
    return subprocess.run(in_a_world(again, kept), env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
