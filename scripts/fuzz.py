"""Fuzz test: damaged copies of every file that the testbed reads, and the commands that read them.

usage: scripts/fuzz.py [--minutes N] [--seed N] [--only NUMBER] [--folder FOLDER]

No command may end with a traceback, use more than 10 s of CPU time, hang, or take a gigabyte of
memory. Exit status 1 means that a command did; the files of such a case stay in FOLDER, and
--only NUMBER with the same seed repeats the case. A case is a random change of one file: of bytes,
of numbers, of values of a JSON document, or of what the file is.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from tests.support.commands import CRASHED, be_command  # noqa: E402

CPU_S = 10
WALL_S = 120  # a machine with other work takes longer
MEMORY_KIB = 2**20  # beyond that of the process before
SPARSE_BYTES = 8 * 2**30
STATUSES = {0, 1, 2, 3}
ODD_NUMBERS = [b"-1", b"0", b"1e308", b"1e400", b"9223372036854775808", b"1" + b"0" * 40, b"NaN"]
ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 100_000,
    "\x1b[2J\u202e\x00",
    "\ud800",
    [],
    {},
    [[]],
    {"": {}},
]
DEEP_JSON = b'{"a":' * 5000 + b"1" + b"}" * 5000
IMPORTED = {
    "net.graphml": '<graphml><graph edgedefault="undirected"><node id="a"/><node id="b"/>'
    '<edge source="a" target="b"/></graph></graphml>',
    "rtts.csv": "from,to,rtt_ms\na,b,10\nb,c,20\n",
    "lab.clab.yml": "name: lab\ntopology:\n  nodes: {a: {kind: linux}, b: {kind: linux}}\n"
    "  links: [{endpoints: ['a:eth1', 'b:eth1']}]\n",
}


@dataclass(frozen=True)
class Subject:
    """A folder of files to damage, and the commands that read the copy of the folder.

    Attributes:
        folder: the folder, whole.
        files: the files that are damaged, below the folder.
        commands: words of commands; {} is the copy of the folder, {file} the damaged file.
    """

    folder: Path
    files: list[Path]
    commands: list[list[str]]


def flip(data: bytes, drawn: random.Random) -> bytes:
    """Flip one or several bits."""
    changed = bytearray(data)
    for _number in range(drawn.choice([1, 1, 1, 8])):
        if changed:
            changed[drawn.randrange(len(changed))] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def cut(data: bytes, drawn: random.Random) -> bytes:
    """Cut off the end."""
    return data[: drawn.randrange(len(data) + 1)]


def leave_out(data: bytes, drawn: random.Random) -> bytes:
    """Leave out a piece."""
    begin = drawn.randrange(len(data) + 1)
    return data[:begin] + data[begin + drawn.randrange(1, 64) :]


def repeat(data: bytes, drawn: random.Random) -> bytes:
    """Repeat a piece."""
    begin = drawn.randrange(len(data) + 1)
    part = data[begin : begin + drawn.randrange(1, 256)]
    return data[:begin] + part * drawn.choice([2, 3, 1000]) + data[begin:]


def insert(data: bytes, drawn: random.Random) -> bytes:
    """Insert random bytes."""
    begin = drawn.randrange(len(data) + 1)
    return data[:begin] + drawn.randbytes(drawn.randrange(1, 32)) + data[begin:]


def odd_number(data: bytes, drawn: random.Random) -> bytes:
    """Replace a number by an unusual one."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data[:200_000]))
    if not numbers:
        return flip(data, drawn)
    found = drawn.choice(numbers)
    return data[: found.start()] + drawn.choice(ODD_NUMBERS) + data[found.end() :]


def odd_value(data: bytes, drawn: random.Random) -> bytes:
    """Replace, add or remove a value of a JSON document, or of a line of JSON."""
    lines = data.splitlines(keepends=True)
    position = drawn.randrange(len(lines)) if lines else 0
    for begin, text, end in (
        (b"", data, b""),
        (b"".join(lines[:position]), b"".join(lines[position : position + 1]), b"\n"),
    ):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            continue
        changed = json.dumps(changed_value(document, drawn)).encode()
        rest = b"".join(lines[position + 1 :]) if end else b""
        return begin + changed + end + rest
    return odd_number(data, drawn)


def changed_value(document: Any, drawn: random.Random) -> Any:
    """Replace or remove one value of a JSON document."""
    keys: list[Any] = []
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    if not keys or drawn.random() < 0.1:
        return drawn.choice(ODD_VALUES)
    key = drawn.choice(keys)
    if drawn.random() < 0.1:
        del document[key]
    else:
        document[key] = changed_value(document[key], drawn)
    return document


def deep(data: bytes, drawn: random.Random) -> bytes:
    """Return JSON with many levels."""
    return DEEP_JSON


def empty(data: bytes, drawn: random.Random) -> bytes:
    """Return nothing."""
    return b""


def zeros(data: bytes, drawn: random.Random) -> bytes:
    """Return as many zeros."""
    return bytes(len(data))


BYTE_CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    *[flip, cut, leave_out, repeat, insert],
    *[odd_number] * 4,
    *[odd_value] * 8,
    *[deep, empty, zeros],
]
PLACE_CHANGES = ["sparse", "folder", "link", "fifo", "missing"]


def damage(path: Path, drawn: random.Random, *, is_named: bool) -> str:
    """Damage a file, and return how.

    Args:
        path: the file.
        drawn: source of random numbers.
        is_named: whether a user names the file itself. Such a file may be a FIFO, as in
            `topo import <(curl ...)`, and a command waits for who writes to it.
    """
    if drawn.random() < 0.05:
        kind = drawn.choice(PLACE_CHANGES)
        if kind == "sparse":
            os.truncate(path, SPARSE_BYTES)
            return kind
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/etc/hostname")
        elif kind == "fifo" and not is_named:
            os.mkfifo(path)
        return kind
    change = drawn.choice(BYTE_CHANGES)
    path.write_bytes(change(path.read_bytes(), drawn))
    return change.__name__


def run_child(words: list[str], log: Path, cache: Path) -> tuple[int, int]:
    """Run a command in a fork; return its exit status, and its memory in KiB beyond ours."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pid = os.fork()
    if pid == 0:
        in_child(words, log, cache)
    until = time.monotonic() + WALL_S
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss - before
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def in_child(words: list[str], log: Path, cache: Path) -> None:
    """Become the command `testbed` with these words."""
    status = CRASHED
    try:
        with log.open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        os.environ["TESTBED_CACHE"] = str(cache)
        status = be_command(words)
    finally:
        os._exit(status)


def what_is_wrong(status: int, memory_kib: int, output: str) -> str:
    """Return what a command did that it may not do; empty if nothing."""
    if "Traceback (most recent call last)" in output:
        return "a traceback"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "too long"
    if status not in STATUSES:
        return f"exit status {status}"
    if memory_kib > MEMORY_KIB:
        return f"{memory_kib // 1024} MiB of memory"
    return ""


def subjects(folder: Path) -> list[Subject]:
    """Write whole folders of every kind, in a child: polars' threads do not survive forks."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            write_whole(folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _pid, wait_status = os.waitpid(pid, 0)
    if wait_status:
        raise SystemExit("cannot write the folders to damage")

    run, sweep, deployed = folder / "run", folder / "sweep", folder / "deployed"
    files, imported = folder / "files", folder / "imported"
    return [
        Subject(
            run,
            below(run, ("*.json", "*.yaml", "*.parquet", "*.pcapng", "raw/*", "logs/*")),
            [
                ["report", "{}"],
                ["report", "{}", "-f", "json"],
                ["report", "{}", "-f", "csv"],
                ["report", "{}", "-o", "{}/figure.svg"],
                ["compare", "{}", "{}", "--html", "{}/compare.html"],
            ],
        ),
        Subject(
            sweep,
            below(sweep, ("*.json", "*.yaml", "points/*/*.json", "failed/*/*.json")),
            [
                ["sweep", "table", "{}"],
                ["sweep", "report", "{}"],
                ["sweep", "plot", "{}", "-x", "delay", "-y", "time_us"],
                ["sweep", "query", "{}", "select * from points"],
            ],
        ),
        Subject(
            files,
            below(files, ("topology-*.yaml",)),
            [["topo", "validate", "{file}"], ["topo", "show", "{file}", "-f", "json"]],
        ),
        Subject(files, below(files, ("experiment-*.yaml",)), [["sweep", "{file}", "--dry-run"]]),
        Subject(
            files,
            below(files, ("workload-*.yaml",)),
            [["run", "two-sites", "{file}", "--dry-run"]],
        ),
        Subject(imported, below(imported, ("*",)), [["topo", "import", "{file}"]]),
        Subject(
            deployed,
            below(deployed, ("deployments/*/*",)),
            [["topo", "inspect", "mine"], ["topo", "inspect"], ["topo", "inspect", "-f", "json"]],
        ),
    ]


def below(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the files that match patterns, relative to a folder."""
    found: list[Path] = []
    for pattern in patterns:
        found += [path.relative_to(folder) for path in folder.glob(pattern) if path.is_file()]
    return sorted(found)


def write_whole(folder: Path) -> None:
    """Write a run, a sweep, a deployment, and files of users."""
    from testbed.deployments.folder import DeploymentPlan, Pids  # noqa: PLC0415
    from testbed.report.make import make_again  # noqa: PLC0415
    from testbed.runfolder.files import replace_text  # noqa: PLC0415
    from testbed.sweep.outputs import write_outputs  # noqa: PLC0415
    from tests.support.synthetic import (  # noqa: PLC0415
        make_plan,
        two_dcs,
        write_flows,
        write_sweep,
        write_training_run,
    )

    run = write_training_run(folder / "run", make_plan(two_dcs()))
    make_again(run)
    write_flows(run)
    write_outputs(write_sweep(folder / "sweep"))

    files = folder / "files"
    files.mkdir()
    for kind, pattern in (
        ("topology", "topologies/*.yaml"),
        ("experiment", "experiments/*.yaml"),
        ("workload", "workloads/*.yaml"),
    ):
        for path in sorted(PROJECT.glob(pattern)):
            shutil.copy(path, files / f"{kind}-{path.name}")
    imported = folder / "imported"
    imported.mkdir()
    for name, text in IMPORTED.items():
        (imported / name).write_text(text)

    deployment = folder / "deployed/deployments/mine"
    deployment.mkdir(parents=True)
    plan = DeploymentPlan(
        name="mine",
        network=two_dcs(),
        clock="virtual",
        seed=0,
        guest_memory_bytes=2**30,
        cpu=0,
        created_s=1.0,
    )
    replace_text(deployment / "plan.json", plan.model_dump_json(indent=1))
    replace_text(deployment / "pids.json", Pids(keeper=1).model_dump_json())
    replace_text(deployment / "last-time", "1735689600000000000")
    replace_text(deployment / "ended", "the guest has ended")
    replace_text(deployment / "ready.json", '{"format": 1, "nodes": [], "commands": []}')
    replace_text(deployment / "alive", "")


def fuzz(arguments: argparse.Namespace, folder: Path) -> int:
    """Damage files until the time is over; return the number of cases that went wrong."""
    whole = folder / "whole"
    whole.mkdir()
    known = subjects(whole)
    begin = time.monotonic()
    number, wrong = 0, 0
    if arguments.only is not None:
        number = arguments.only
    while time.monotonic() - begin < 60 * arguments.minutes:
        wrong += case(arguments.seed, number, known, folder)
        number += 1
        if arguments.only is not None:
            break
    print(f"{number} cases, {wrong} wrong")
    return wrong


def case(seed: int, number: int, known: list[Subject], folder: Path) -> int:
    """Carry out a case; return 1 if it goes wrong."""
    drawn = random.Random(f"{seed}-{number}")
    subject = drawn.choice(known)
    file = drawn.choice(subject.files)
    copy = folder / f"case-{number}"
    shutil.copytree(subject.folder, copy)
    is_named = any("{file}" in command for command in subject.commands[0])
    how = damage(copy / file, drawn, is_named=is_named)
    template = drawn.choice(subject.commands)
    words = [word.replace("{file}", str(copy / file)).replace("{}", str(copy)) for word in template]
    log = folder / f"case-{number}.log"
    is_deployment = subject.folder.name == "deployed"
    cache = copy if is_deployment else folder / "cache"
    status, memory_kib = run_child(words, log, cache)
    output = log.read_text(errors="replace")
    wrong = what_is_wrong(status, memory_kib, output)
    if wrong:
        last = (output.strip().splitlines()[-1:] or [""])[0][:200]
        command = " ".join(template)
        print(f"case {number}: {wrong}: {how} of {file}: {command}: {last}", flush=True)
        return 1
    shutil.rmtree(copy)
    log.unlink()
    return 0


def main() -> int:
    """Fuzz, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of the only case")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="testbed-fuzz-"))
    folder.mkdir(exist_ok=True)
    (folder / "cache").mkdir()
    # Imported once; children need no imports.
    import testbed.analysis.summarize  # noqa: PLC0415
    import testbed.cli.main  # noqa: PLC0415
    import testbed.report.compare_page  # noqa: PLC0415
    import testbed.report.page  # noqa: PLC0415
    import testbed.sweep.outputs  # noqa: PLC0415
    import testbed.sweep.page  # noqa: PLC0415
    import testbed.sweep.results  # noqa: F401, PLC0415

    wrong = fuzz(arguments, folder)
    if not wrong and arguments.folder is None:
        shutil.rmtree(folder)
    elif wrong:
        print(f"the files are in {folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
