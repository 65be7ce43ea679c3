"""Measure what training on modelled GPUs costs this machine: CPU time of a step, and memory.

Llama 3 with FSDP2 and activation checkpointing (tests/proof/gpu_scripts/llama_fsdp.py). A step's
CPU time is that of all guests between the ends of two steps, the mean of all but the first one. The
memory is what the guests' kernels have touched, at most.

usage: scripts/bench_gpus.py [NAME ...]     names from `CASES`; default: all
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from testbed.guest.session import session_cpu_seconds

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = PROJECT / "tests/proof/gpu_scripts/llama_fsdp.py"
GIB = 2**30
POLL_S = 0.2
STEPS = 3
DONE = " done"
LARGE = "4096 GiB"


@dataclass(frozen=True)
class Case:
    """A model and a network.

    Attributes:
        size: size of the model.
        hosts: hosts of each of two datacenters.
        gpus: GPUs of a host.
        replicas: groups of ranks with all parameters; 2: one in each datacenter.
        scale: one byte of so many crosses the network.
        memory: memory of a GPU; few GPUs need more for a model than an H100 has.
        guests: guests that share the work, each on one CPU.
    """

    size: str
    hosts: int
    gpus: int
    replicas: int = 1
    scale: int = 1000
    memory: str = "80 GiB"
    guests: int = 1


CASES = {
    "8B-2x1": Case("8B", 1, 1),
    "8B-10x1": Case("8B", 5, 1),
    "8B-2x4": Case("8B", 1, 4, replicas=2),
    "8B-2x8": Case("8B", 1, 8, replicas=2),
    "70B-2x1": Case("70B", 1, 1, replicas=2, memory=LARGE),
    "70B-2x4": Case("70B", 1, 4, replicas=2, memory=LARGE),
    "70B-2x8": Case("70B", 1, 8, replicas=2, memory=LARGE),
    "70B-4x8": Case("70B", 2, 8, replicas=2),
    "70B-8x8": Case("70B", 4, 8, replicas=2, guests=2),
}


@dataclass
class Use:
    """What the guests of a run have used so far.

    Attributes:
        step_ends: wall and CPU seconds at the end of each step.
        most_bytes: most memory of each guest, by session.
    """

    step_ends: list[tuple[float, float]] = field(default_factory=list)
    most_bytes: dict[int, int] = field(default_factory=dict)


def sessions_of(parent: int) -> list[int]:
    """Return the sessions that descendants of a process lead: guests."""
    parents: dict[int, int] = {}
    leaders: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(entry.name)
        parents[pid] = int(words[1])
        if int(words[3]) == pid:
            leaders.append(pid)

    return [leader for leader in leaders if _descends(leader, parent, parents)]


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def shared_bytes(pid: int) -> int:
    """Return the shared memory that a process has touched; a guest's memory, for its kernel."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("RssShmem:"):
            return int(line.split()[1]) * 1024
    return 0


def steps_done(out: Path) -> int:
    """Return how many steps a run has ended, by the log of rank 0, which may be in a guest."""
    for folder in (out, out / "guests/0"):
        log = folder / "logs/rank-0.log"
        if log.exists():
            return log.read_text().count(DONE)
    return 0


def follow(process: subprocess.Popen[bytes], out: Path) -> Use:
    """Follow a run until its end."""
    use = Use()
    while process.poll() is None:
        time.sleep(POLL_S)
        sessions = sessions_of(process.pid)
        for session in sessions:
            touched = shared_bytes(session)
            use.most_bytes[session] = max(touched, use.most_bytes.get(session, 0))
        steps = steps_done(out)
        while len(use.step_ends) < steps:
            cpu_s = sum(session_cpu_seconds(session) for session in sessions)
            use.step_ends.append((time.monotonic(), cpu_s))

    return use


def run(case: Case) -> Use:
    """Run a case; exit if it fails."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        out, gpu = Path(scratch, "run"), Path(scratch, "h100.yaml")
        gpu.write_text(f"like: H100\nmemory: {case.memory}\n")
        words = ["two-sites", "--quiet", "--isolation", "process", "--out", str(out)]
        words += ["--set", f"topology.datacenters.*.hosts={case.hosts}"]
        words += ["--scale", str(case.scale)]
        words += ["--gpu", str(gpu), "--gpus-per-host", str(case.gpus)]
        words += ["--guests", str(case.guests)]
        words += ["--", str(SCRIPT), case.size, str(case.replicas), str(STEPS)]
        command = [sys.executable, "-m", "testbed", "run", *words]
        with Path(scratch, "output").open("w+b") as output:
            process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output)
            use = follow(process, out)
            if process.returncode != 0:
                output.seek(0)
                sys.exit(f"{case} failed:\n{output.read().decode()}")

    return use


def main() -> None:
    """Run the cases, and print a line for each."""
    names = sys.argv[1:] or list(CASES)
    unknown = set(names) - set(CASES)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the names are {', '.join(CASES)}")
    print(f"{'case':<10}{'ranks':>6}{'GiB':>7}{'MiB a rank':>12}{'step, CPU s':>13}{'wall s':>8}")
    for name in names:
        case = CASES[name]
        use = run(case)
        ranks = 2 * case.hosts * case.gpus
        touched = sum(use.most_bytes.values())
        first, *_others, last = use.step_ends
        count = len(use.step_ends) - 1
        wall_s, cpu_s = ((last[place] - first[place]) / count for place in (0, 1))
        each_mib = touched / ranks / 2**20
        memory = f"{touched / GIB:>7.2f}{each_mib:>12.0f}"
        print(f"{name:<10}{ranks:>6}{memory}{cpu_s:>13.1f}{wall_s:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
