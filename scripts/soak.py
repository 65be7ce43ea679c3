"""Soak test: random small runs and sweeps with random endings, with a resource census around each.

usage: scripts/soak.py [--minutes N] [--seed N] [--folder FOLDER]

A sweep, or one of its guests, is killed at random moments and restarted until the sweep is
complete. The test reports leftovers (processes, namespaces, links, queues, mounts, control groups,
shared memory, temporary files, sockets), hangs, completed points that were lost or ran again, and
undocumented exit statuses. Exit status 1 means that at least one was found; the files of failures
stay in FOLDER. At the end the test prints the trend of memory that remains in use after each run:
the slope of a line through the values. If this user can make a memory control group, the commands
run in this group, and its memory without cached files counts. Otherwise the used memory of the
machine counts.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from tests.support.cases import PAIR, TESTBED, itself, try_run  # noqa: E402
from tests.support.census import differences  # noqa: E402
from tests.support.memory_group import MemoryGroup, memory_group  # noqa: E402
from tests.support.world import can_make_worlds, in_a_world  # noqa: E402

INSIDE = "TESTBED_SOAK_WORLD"  # environment variable, set in the separate namespaces
STATUSES = {"": {0}, "SIGINT": {130, 0}, "SIGTERM": {130, 0}, "SIGKILL": {-9, 0}}
LONGEST_RUN_S = 25.0  # maximum wall seconds before a signal
EVENTS = [
    "{at: 200 ms, duration: 300 ms, links: oslo, down: true}",
    "{at: 100 ms, duration: 50 ms, every: 200 ms, times: 20, links: all, rate: 20 Mbit/s, "
    "loss: 1 %}",
    "{at: 500 ms, links: bern, delay: 150 ms}",
]
ATTACK = "tests/support/attack.py"  # a script whose ranks attack the run folder
JOBS = {
    "collectives": [
        "workload.ops=[all_reduce, broadcast]",
        "workload.sizes=[4 KiB, 1 MiB]",
        "workload.iterations=2",
    ],
    "endless": [
        "workload.ops=[all_reduce]",
        "workload.sizes=[64 KiB]",
        "workload.iterations=1000000",
    ],
    "train": ["workload.steps=3", "workload.step_time=50 ms"],
}


def topology(drawn: random.Random) -> str:
    """Return a random topology: two or three datacenters with one or two hosts each, all linked.

    In a third of the topologies a link event changes links.
    """
    names = ["oslo", "bern", "lima"][: drawn.choice([2, 2, 3])]
    lines = ["name: soak", "datacenters:"]
    lines += [
        f"  {name}: {{hosts: {drawn.choice([1, 1, 2])}, nic: {{rate: 10 Gbit/s}}}}"
        for name in names
    ]
    rate, delay = drawn.choice(["100 Mbit/s", "1 Gbit/s", "10 Gbit/s"]), drawn.choice([1, 10, 80])
    loss = drawn.choice(["", ", loss: 0.1 %"])
    lines += ["wan:", f"  - {{mesh: [{', '.join(names)}], rate: {rate}, delay: {delay} ms{loss}}}"]
    return "\n".join(
        [*lines, *drawn.choice([[], [], ["events:", f"  - {drawn.choice(EVENTS)}"]]), ""]
    )


def words(drawn: random.Random, folder: Path) -> list[str]:
    """Return the command of a random run, and write its topology."""
    path = folder / "topology.yaml"
    path.write_text(topology(drawn))
    name = drawn.choices([*JOBS, ATTACK], [4, 3, 2, 1])[0]
    options = ["--seed", str(drawn.randrange(1000)), "--out", str(folder / "run")]
    options += ["--isolation", drawn.choices(["process", "container"], [3, 1])[0]]
    options += [
        "--clock",
        drawn.choices(["virtual", "real"], [4, 1])[0],
        "--capture",
        drawn.choice(["none", "wan"]),
    ]
    if name == ATTACK:
        return [*TESTBED, "run", str(path), *options, "--", str(PROJECT / ATTACK)]
    sets: list[str] = []
    for value in JOBS[name]:
        sets += ["--set", value]
    return [*TESTBED, "run", str(path), name.replace("endless", "collectives"), *sets, *options]


def used_memory(group: MemoryGroup | None) -> int:
    """Return the bytes that `group` retains; without a group, those that this machine lacks."""
    if group is not None:
        return group.retained_bytes()
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total - available


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment for testbed commands, with a separate cache in `folder`."""
    return {**os.environ, "TESTBED_CACHE": str(folder / "cache"), "COLUMNS": "200"}


def troubles(found: dict[str, Any], statuses: set[int]) -> list[str]:
    """Return the problems with the end of a command."""
    left = differences(found.pop("before"), found.pop("after"))
    told = [f"left {kind}: {new}" for kind, (new, _gone) in left.items() if new]
    told += [f"took away {kind}: {gone}" for kind, (_new, gone) in left.items() if gone]
    return told if found["status"] in statuses else [*told, f"exit status {found['status']}"]


def in_group(command: list[str], group: MemoryGroup | None) -> list[str]:
    """Return the words of a command that runs in the group, if there is one."""
    return command if group is None else group.joined(command)


def try_single(
    drawn: random.Random, folder: Path, group: MemoryGroup | None
) -> tuple[str, list[str]]:
    """Carry out a random run; return a description, and the problems with its end."""
    run = words(drawn, folder)
    end = drawn.choice(
        ["SIGINT", "SIGTERM", "SIGKILL"]
        if "1000000" in " ".join(run)
        else ["", "", "SIGINT", "SIGKILL"]
    )
    after_s = drawn.uniform(0.5, LONGEST_RUN_S)
    found = try_run(
        in_group(run, group),
        environment_in(folder.parent),
        folder / "log",
        end=end,
        after_s=after_s,
    )
    return f"run, {end or 'complete'}: status {found['status']}", troubles(found, STATUSES[end])


def a_guest(drawn: random.Random, command: int) -> int:
    """Return the PID of a random process of a running guest; `command` without guests."""
    kernel = os.environ["TESTBED_KERNEL"].encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().split(b"\0")[0] == kernel:
                found.append(int(entry.name))
        except OSError:
            continue
    return drawn.choice(found) if found else command


def finished(sweep: Path) -> dict[str, int]:
    """Return the time of writing of each finished point, by name of the point's folder."""
    return {path.parent.name: path.stat().st_mtime_ns for path in sweep.glob("points/*/point.json")}


def try_sweep(
    drawn: random.Random, folder: Path, group: MemoryGroup | None
) -> tuple[str, list[str]]:
    """Run a sweep that is killed a few times and then left alone.

    Returns:
        A description of the sweep, and the problems with its end.
    """
    (folder / "topology.yaml").write_text(PAIR)
    delays = drawn.sample(["1 ms", "5 ms", "20 ms", "50 ms"], 2)
    rates = drawn.sample(["100 Mbit/s", "1 Gbit/s", "5 Gbit/s"], drawn.choice([1, 2]))
    job = "workload.ops: [all_reduce], workload.sizes: [4 KiB, 256 KiB], workload.iterations: 2"
    (folder / "experiment.yaml").write_text(
        "topology: topology.yaml\n"
        f"settings: {{{job}, run.isolation: process, run.stall_limit: 300 s}}\n"
        "sweep:\n  grid:\n"
        f"    topology.wan.west-east.delay: [{', '.join(delays)}]\n"
        f"    topology.wan.west-east.rate: [{', '.join(rates)}]\n"
    )
    out = folder / "sweep"
    told: list[str] = []
    wrong: list[str] = []
    command = [
        *TESTBED,
        "sweep",
        str(folder / "experiment.yaml"),
        "--out",
        str(out),
        "--jobs",
        drawn.choice("12"),
    ]
    for end in [
        *drawn.choices(["SIGINT", "SIGTERM", "SIGKILL", "guest"], k=drawn.choice([1, 2])),
        "",
    ]:
        before, after_s = finished(out), drawn.uniform(0.5, LONGEST_RUN_S)
        whom = (lambda command: a_guest(drawn, command)) if end == "guest" else itself
        found = try_run(
            in_group(command, group),
            environment_in(folder.parent),
            folder / f"log-{len(told)}",
            after_s=after_s,
            whom=whom,
            end="SIGKILL" if end == "guest" else end,
        )
        told.append(f"{end or 'complete'} (status {found['status']}, {len(finished(out))} done)")
        wrong += troubles(found, STATUSES["SIGKILL"] | {1} if end == "guest" else STATUSES[end])
        wrong += [
            f"point {name} lost or run again"
            for name in before
            if finished(out).get(name) != before[name]
        ]
    if len(finished(out)) != len(delays) * len(rates):
        wrong.append(
            f"{len(finished(out))} of {len(delays) * len(rates)} points are done at the end"
        )
    return "sweep, " + ", ".join(told), wrong


def print_memory(memory: list[tuple[float, int]], group: MemoryGroup | None) -> None:
    """Print the trend of the memory in use.

    Args:
        memory: Hours since the start, and bytes in use, after each run.
        group: Group that was measured; None if it was the machine.
    """
    slope = statistics.linear_regression(*zip(*memory, strict=True)).slope if len(memory) > 2 else 0
    growth = memory[-1][1] - memory[0][1]
    whose = "this machine, with all that others do" if group is None else "the commands' group"
    print(
        f"memory in use by {whose}: {memory[-1][1] / 2**20:.1f} MiB after the last, "
        f"{growth / 2**20:+.1f} MiB from the first to the last, {slope / 2**20:+.1f} MiB an hour"
    )


def soak(minutes: float, seed: int, folder: Path, group: MemoryGroup | None) -> int:
    """Run until the time is over; return 1 if there were problems.

    Args:
        minutes: Wall time of the test.
        seed: Random seed.
        folder: Folder for logs and failures.
        group: Memory control group of the commands; None if there is none.
    """
    drawn = random.Random(seed)
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    begin, bad = time.monotonic(), 0
    memory: list[tuple[float, int]] = []  # hours since the start, bytes
    while (now := time.monotonic()) < begin + 60 * minutes:
        (place := folder / f"{len(memory) + 1:04}").mkdir()
        told, wrong = drawn.choices([try_single, try_sweep], [3, 1])[0](drawn, place, group)
        memory.append(((time.monotonic() - begin) / 3600, used_memory(group)))
        print(f"{len(memory):4} {time.monotonic() - now:6.1f} s  {told}", flush=True)
        if wrong:
            bad += 1
            (place / "trouble.json").write_text(
                json.dumps({"what": told, "wrong": wrong}, indent=1)
            )
            print("     " + "\n     ".join(wrong) + f"\n     see {place}", flush=True)
        else:
            shutil.rmtree(place)
    print(f"{len(memory)} runs and sweeps, {bad} with trouble; seed {seed}")
    print_memory(memory, group)
    return 1 if bad else 0


def main() -> int:
    """Parse the command line, and run the soak test in a separate namespace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument(
        "--folder", type=Path, help="for logs and what fails [default: a new one in /var/tmp]"
    )
    options = parser.parse_args()
    folder = (
        options.folder or Path(tempfile.mkdtemp(prefix="testbed-soak-", dir="/var/tmp"))
    ).absolute()
    if INSIDE in os.environ:
        with memory_group(f"testbed-soak-{folder.name}") as group:
            return soak(options.minutes, options.seed, folder, group)
    if not can_make_worlds():
        print("namespaces cannot be made here; run as root, or see testbed doctor", file=sys.stderr)
        return 3
    from testbed.guest.kernel import ensure_kernel  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    kernel = ensure_kernel()
    kept = [folder, PROJECT, Path(sys.prefix), Path(sys.base_prefix), kernel.path.parent]
    again = [
        sys.executable,
        __file__,
        "--minutes",
        options.minutes,
        "--seed",
        options.seed,
        "--folder",
        folder,
    ]
    environment = {
        **os.environ,
        INSIDE: "1",
        "TESTBED_KERNEL": str(kernel.path),
        "PYTHONPATH": str(PROJECT),
    }
    return subprocess.run(in_a_world(again, kept), env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
