"""Networks that stand until they are destroyed: what their users see, and what is left of them.

They have a separate cache folder, so that what they leave can be told from what others do. Two
networks of the same pair of hosts, 10 ms apart, serve most tests: ``real`` on the host's clock, and
``exact`` on the virtual one.
"""

import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.runs import PAIR

LONGEST_S = 60  # of wall time for any command; they take 1 to 8 s
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Place:
    """A cache folder, and commands that use it."""

    cache: Path
    topology: Path
    environment: dict[str, str]

    def run(self, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "testbed", "topo", *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        assert done.returncode == status, (
            f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    @contextmanager
    def started(self, *words: object) -> Iterator[subprocess.Popen[str]]:
        """A command in the background, on which Ctrl-C has its usual effect."""
        with subprocess.Popen(
            [
                "env",
                "--default-signal=INT",
                sys.executable,
                "-m",
                "testbed",
                "topo",
                *map(str, words),
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def deploy(self, name: str, clock: str) -> str:
        self.run("deploy", self.topology, "--name", name, "--clock", clock)
        return name

    def inspect(self, name: str) -> Any:
        return json.loads(self.run("inspect", name, "-f", "json").stdout)

    def processes(self) -> list[str]:
        """Give command lines that name a folder of this cache: keepers, and guests' processes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.cache).encode() in line:
                    found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def check_nothing_is_left(self) -> None:
        assert self.processes() == []
        assert [*self.cache.glob("deployments/*"), *self.cache.glob("notes/*")] == []


def new_place(kernel: Kernel, environment: dict[str, str], folder: Path) -> Place:
    topology = folder / "pair.yaml"
    topology.write_text(PAIR)
    cache = folder / "cache"
    settings = {"TESTBED_CACHE": str(cache), "TESTBED_KERNEL": str(kernel.path)}
    return Place(cache, topology, environment | settings)


@pytest.fixture(scope="module")
def shared(
    kernel: Kernel, command_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """The place of ``real`` and ``exact``, which is left as it was found."""
    place = new_place(kernel, command_environment, tmp_path_factory.mktemp("live"))
    in_shm = set(SHM.iterdir())
    try:
        yield place
    finally:
        place.run("destroy", "--all")
    place.check_nothing_is_left()
    assert set(SHM.iterdir()) <= in_shm


@pytest.fixture(scope="module")
def real(shared: Place) -> str:
    return shared.deploy("real", "real")


@pytest.fixture(scope="module")
def exact(shared: Place) -> str:
    return shared.deploy("exact", "virtual")


@pytest.fixture
def place(kernel: Kernel, command_environment: dict[str, str], tmp_path: Path) -> Iterator[Place]:
    """A place of the test's own."""
    made = new_place(kernel, command_environment, tmp_path)
    yield made
    made.run("destroy", "--all")


def rtts_ms(output: str) -> list[float]:
    return [float(value) for value in re.findall(r"time=([0-9.]+) ms", output)]


def test_inspect(shared: Place, real: str) -> None:
    found = shared.inspect(real)
    assert (found["name"], found["topology"], found["state"], found["clock"]) == (
        "real",
        "pair",
        "running",
        "real",
    )
    assert found["hosts"] == [
        {"name": "west-h0", "datacenter": "west", "address": "10.0.0.1"},
        {"name": "east-h0", "datacenter": "east", "address": "10.1.0.1"},
    ]
    assert [
        (way["from"], way["to"], way["rate_bps"], way["delay_ms"]) for way in found["links"]
    ] == [
        ("west", "east", 10**9, 10),
        ("east", "west", 10**9, 10),
    ]
    assert found["uptime_s"] > 0
    assert b"TESTBED_GUEST" in Path("/proc", str(found["pid"]), "cmdline").read_bytes()
    rows = list(csv.DictReader(shared.run("inspect", real, "-f", "csv").stdout.splitlines()))
    assert [row["kind"] for row in rows] == ["host", "host", "link", "link"]
    assert "west-h0  west        10.0.0.1" in shared.run("inspect", real).stdout


def test_exec_streams_and_status(shared: Place, real: str) -> None:
    done = shared.run(
        "exec", "-t", real, "west-h0", "--", "sh", "-c", "hostname; echo no >&2; exit 7", status=7
    )
    assert (done.stdout, done.stderr) == ("west-h0\n", "no\n")
    done = shared.run("exec", "-t", real, "west-h0", "--", "nonsense", status=127)
    assert done.stderr == "nonsense: command not found\n"
    done = shared.run("exec", "-t", real, "west-h0", "--", "sh", "-c", "kill -9 $$", status=128 + 9)


def test_exec_while_the_command_runs(shared: Place, real: str) -> None:
    """Output comes once, while the command runs; Ctrl-C ends the command, not the deployment.

    The command is no shell: dash puts Ctrl-C off until the program that it is about to start has
    ended.
    """
    follow = ["tail", "-n1", "-f", "/etc/os-release"]
    with shared.started("exec", "-t", real, "west-h0", "--", *follow) as process:
        assert process.stdout is not None
        assert (
            process.stdout.readline() == Path(follow[-1]).read_text().splitlines(keepends=True)[-1]
        )
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST_S) == 130
        assert process.stdout.read() == ""
    assert (
        " ".join(follow)
        not in shared.run("exec", "-t", real, "west-h0", "--", "ps", "-eo", "args").stdout
    )
    assert shared.inspect(real)["state"] == "running"


def test_round_trip(shared: Place, real: str) -> None:
    """20 ms and what the host adds: 2 ms + 2 % for the quickest of five. Hosts have names."""
    output = shared.run(
        "exec", "-t", real, "west-h0", "--", "ping", "-c5", "-i0.1", "east-h0"
    ).stdout
    assert min(rtts_ms(output)) == pytest.approx(20, abs=2 + 0.4)


def test_exec_with_input(shared: Place, exact: str, tmp_path: Path) -> None:
    """Without -i the input ends at once; with -i all of it arrives, in little virtual time."""
    words = [sys.executable, "-m", "testbed", "topo", "exec", "-t", exact]
    data = os.urandom(3_000_000)

    def pipe(*command: str) -> bytes:
        return subprocess.run(
            [*words, *command],
            env=shared.environment,
            input=data,
            capture_output=True,
            timeout=LONGEST_S,
            check=True,
        ).stdout

    before = int(shared.run("exec", "-t", exact, "west-h0", "--", "date", "+%s%N").stdout)
    assert pipe("west-h0", "--", "cat") == b""
    assert pipe("-i", "west-h0", "--", "cat") == data
    after = int(shared.run("exec", "-t", exact, "west-h0", "--", "date", "+%s%N").stdout)
    assert after - before < 10**9


def test_copy(shared: Place, exact: str, tmp_path: Path) -> None:
    """A folder goes to a host and comes back; an existing folder gets the copy."""
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/sub/a file").write_bytes(b"\0\1\n")
    shared.run("cp", "-t", exact, tmp_path / "data", "west-h0:/root/copied")
    found = shared.run("exec", "-t", exact, "west-h0", "--", "find", "/root/copied", "-type", "f")
    assert found.stdout == "/root/copied/sub/a file\n"
    (tmp_path / "back").mkdir()
    shared.run("cp", "-t", exact, "east-h0:/root/copied", tmp_path / "back")
    assert (tmp_path / "back/copied/sub/a file").read_bytes() == b"\0\1\n"
    lost = shared.run("cp", "-t", exact, "west-h0:/nowhere", tmp_path / "new", status=1)
    assert "nowhere: Cannot stat" in lost.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.alone
def test_set_loses_no_packet(shared: Place, real: str) -> None:
    """600 echoes, one in 10 ms, two or more always on their way, while the delay changes twice.

    The delay doubles and falls back: 20 ms at first, then 40 ms, and 20 ms in the end. Single
    echoes may take longer on the real clock, so half a second decides.
    """
    with shared.started(
        "exec", "-t", real, "west-h0", "--", "ping", "-c600", "-i0.01", "10.1.0.1"
    ) as process:
        time.sleep(1.5)
        shared.run("set", "-t", real, "wan.west-east.delay=20 ms")
        assert [way["delay_ms"] for way in shared.inspect(real)["links"]] == [20, 20]
        shared.run("set", "-t", real, "wan.west-east.delay=10 ms")
        output, error = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, error
    assert "600 packets transmitted, 600 received" in output
    times = rtts_ms(output)
    assert median(times[:50]) == pytest.approx(20, abs=5)
    assert max(times) > 39
    assert median(times[-50:]) == pytest.approx(20, abs=5)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["set", "-t", "real", "wan.west-east.delai=1 ms"], "nearest: delay"),
        (
            ["set", "-t", "real", "datacenters.west.hosts=2"],
            "while the network is deployed",
        ),
        (["set", "-t", "real", "mtu=9000"], "deploy again with --set"),
        (["set", "-t", "real", "wan.west-east.rate=fast"], "is not a rate"),
        (
            ["exec", "-t", "real", "west-h1", "--", "true"],
            "real has no host 'west-h1'\n  nearest: west-h0",
        ),
        (
            ["exec", "west-h0", "--", "true"],
            "several networks are deployed: exact, real\n  select one with -t NAME",
        ),
        (
            ["exec", "-t", "reel", "west-h0", "--", "true"],
            "unknown deployment 'reel'\n  nearest: real",
        ),
        (
            ["deploy", "two-sites", "--name", "real"],
            "a deployment real already exists (running)",
        ),
        (["deploy", "two-sites", "--name", "a/b"], "is not a valid deployment name"),
        (["deploy", "two-sitez"], "nearest: two-sites"),
        (["destroy"], "name the deployments to destroy, or use --all"),
    ],
)
def test_bad_input(shared: Place, real: str, exact: str, words: list[str], text: str) -> None:
    assert text in shared.run(*words, status=2).stderr


def test_virtual_time_stands_still(shared: Place, exact: str) -> None:
    """The guest's kernel is stopped: two commands, a second apart, are within a virtual ms."""
    read_clock = ["exec", "-t", exact, "west-h0", "--", "date", "+%s%N"]
    begin, first = time.monotonic(), int(shared.run(*read_clock).stdout)
    time.sleep(1)
    stat = Path("/proc", str(shared.inspect(exact)["pid"]), "stat").read_text()
    assert stat[stat.rindex(")") + 2] == "T"
    second = int(shared.run(*read_clock).stdout)
    assert time.monotonic() - begin > 1
    assert 0 <= second - first < 1_000_000  # reads by different processes may be equal


def test_virtual_round_trip(shared: Place, exact: str) -> None:
    """20 ms, for 98 bytes 2 x 0.784 us at WAN ports and 4 x 0.031 us at NICs; 20 us for netem."""
    output = shared.run("exec", "-t", exact, "west-h0", "--", "ping", "-c3", "10.1.0.1").stdout
    assert rtts_ms(output) == pytest.approx([20.0017] * 3, abs=0.02)
    assert "3 received, 0% packet loss, time 200" in output  # one a second


def test_verify_finds_a_wrong_rate(shared: Place, exact: str) -> None:
    """One direction gets a rate that is 2 % less than planned; all else stays as planned."""
    before = json.loads(shared.run("verify", "-t", exact, "-f", "json").stdout)
    assert [(c["quantity"], c["from"], c["to"], c["ok"]) for c in before] == [
        ("rtt", "west", "east", True),
        ("rate", "west", "east", True),
        ("rate", "east", "west", True),
    ]
    assert [c["measured"] for c in before[1:]] == pytest.approx([1000, 1000], rel=0.005)
    tc = [
        "tc",
        "qdisc",
        "change",
        "dev",
        "d0r-w0",
        "root",
        "netem",
        "rate",
        "980mbit",
        "limit",
        "100000",  # packets: the queue holds all that verify sends at once
    ]
    shared.run("exec", "-t", exact, "west", "--", *tc)
    after = json.loads(shared.run("verify", "-t", exact, "-f", "json", status=1).stdout)
    assert [c["ok"] for c in after] == [True, False, True]
    assert after[1]["measured"] == pytest.approx(980, rel=0.005)


def test_verify_a_preset(shared: Place) -> None:
    """All of it, on the virtual clock; a table with a verdict in each line."""
    lines = shared.run("verify", "two-sites").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["rtt", "rate", "rate"]
    assert {line.split()[-1] for line in lines} == {"ok"}


def test_verify_loss(shared: Place, tmp_path: Path) -> None:
    """Loss of 2 % is measured within four standard deviations of 10 000 packets."""
    lossy = tmp_path / "lossy.yaml"
    lossy.write_text(PAIR.replace("delay: 10 ms", "delay: 10 ms, loss: {west->east: 2 %}"))
    rows = list(csv.DictReader(shared.run("verify", lossy, "-f", "csv").stdout.splitlines()))
    assert [(row["quantity"], row["from"], row["ok"]) for row in rows] == [
        ("rtt", "west", "True"),
        ("rate", "west", "True"),
        ("loss", "west", "True"),
        ("rate", "east", "True"),
    ]
    assert float(rows[2]["measured"]) == pytest.approx(2, abs=4 * 0.14)


def test_verify_short_queues(shared: Place, tmp_path: Path) -> None:
    """The probe fits into each queue; a queue of one packet is empty for up to a timer's step."""
    queues = {
        "b": "queue: 1 packets",
        "c": "queue: 2 packets",
        "d": "queue: 5 packets",
        "e": "queue: 20 packets, discipline: red",
        "f": "queue: 8 packets, discipline: fq_codel",
    }
    lines = ["name: short", "datacenters:", "  a: {hosts: 1}"]
    lines += [f"  {name}: {{hosts: 1}}" for name in queues]
    lines.append("wan:")
    for name, queue in queues.items():
        lines.append(f"  - {{between: [a, {name}], rate: 100 Mbit/s, delay: 1 ms, {queue}}}")
    (tmp_path / "short.yaml").write_text("\n".join(lines) + "\n")
    checks = json.loads(shared.run("verify", tmp_path / "short.yaml", "-f", "json").stdout)
    rates = [check for check in checks if check["quantity"] == "rate"]
    assert len(rates) == 2 * len(queues)
    for check in rates:
        assert check["measured"] == pytest.approx(100, abs=1.5), check


def test_shell(shared: Place, real: str) -> None:
    """Mininet's prompt in a terminal: completion by Tab, commands on hosts, and an end."""
    words = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "testbed",
        "topo",
        "shell",
        "-t",
        real,
    ]
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        words, stdin=other_end, stdout=other_end, stderr=other_end, env=shared.environment
    ) as shell:
        os.close(other_end)
        try:
            use_prompt(shell, terminal)
        finally:
            shell.kill()  # otherwise a failed assertion waits for the shell
    os.close(terminal)


def test_line_ends_in_a_terminal(shared: Place, real: str) -> None:
    words = [sys.executable, "-m", "testbed", "topo", "exec", "-it", "-t", real, "west-h0"]
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [*words, "--", "printf", "one\\ntwo\\nthree"],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env=shared.environment,
    ) as command:
        os.close(other_end)
        try:
            assert read_until(terminal, "three") == "one\r\ntwo\r\nthree"
            assert command.wait(LONGEST_S) == 0
        finally:
            command.kill()
    os.close(terminal)


def use_prompt(shell: subprocess.Popen[bytes], terminal: int) -> None:
    read_until(terminal, "real> ")
    os.write(terminal, b"west-h\t ping -c1 east-h\t\n")
    output = read_until(terminal, "rtt min.*real> ")
    assert "west-h0 " in output
    assert "10.1.0.1" in output
    assert "1 received" in output
    os.write(terminal, b"west-h0 hostname; hostname\n")
    output = read_until(terminal, "\nwest-h0.*real> ")
    assert "\nwest-h0\r\nwest-h0\r\n" in output
    assert "\r\r" not in output
    os.write(terminal, b"nodes\n")
    assert "east east-h0 east-s wan west west-h0 west-s" in read_until(terminal, "nodes.*real> ")
    os.write(terminal, b"net\n")
    assert "\nwest-h0 eth0->west-s:d0h0-sw\r\n" in read_until(terminal, "wan .*real> ")
    os.write(terminal, b"links\n")
    assert "\nwest-h0:eth0<->west-s:d0h0-sw (OK OK)\r\n" in read_until(terminal, "wan:.*real> ")
    os.write(terminal, b"dump\n")
    dumped = read_until(terminal, "wan, .*real> ")
    assert "\nwest-h0, eth0->west-s:d0h0-sw 10.0.0.1/" in dumped
    os.write(terminal, b"pingall\n")
    assert "0% dropped (2/2 received)" in read_until(terminal, "Results.*real> ")
    os.write(terminal, b"west-h0 ping east-h0\n")
    read_until(terminal, "icmp_seq=2")
    shell.send_signal(signal.SIGINT)  # ends the ping, not the shell
    assert "packets transmitted" in read_until(terminal, "rtt min.*real> ")
    os.write(terminal, b"exit\n")
    assert shell.wait(LONGEST_S) == 0


def read_until(terminal: int, pattern: str) -> str:
    """What appears in a terminal, until `pattern` is in it."""
    output, deadline = "", time.monotonic() + LONGEST_S
    while not re.search(pattern, output, re.DOTALL):
        assert time.monotonic() < deadline, output
        if select.select([terminal], [], [], 1)[0]:
            output += os.read(terminal, 4096).decode()
    return output


def test_crash(place: Place) -> None:
    name = place.deploy("lost", "real")
    os.kill(place.inspect(name)["pid"], signal.SIGKILL)
    deadline = time.monotonic() + LONGEST_S
    while (found := place.inspect(name))["state"] == "running":
        assert time.monotonic() < deadline
    assert (found["state"], found["pid"]) == ("crashed", None)
    assert "the guest has ended" in found["reason"]
    assert "is not running (crashed)" in place.run("exec", "west-h0", "--", "true", status=2).stderr
    place.run("destroy", name)
    place.check_nothing_is_left()


def test_killed_keeper(place: Place) -> None:
    """As after a crash of the machine: the folder is all there is."""
    name = place.deploy("orphan", "virtual")
    os.kill(
        json.loads((place.cache / "deployments" / name / "pids.json").read_text())["keeper"],
        signal.SIGKILL,
    )
    found = place.inspect(name)
    assert found["state"] == "gone"
    place.run("destroy", "--all")
    place.check_nothing_is_left()
    assert json.loads(place.run("inspect", "-f", "json").stdout) == []


def test_interrupted_deploy(place: Place) -> None:
    with place.started("deploy", place.topology) as process:
        deadline = time.monotonic() + LONGEST_S
        while not place.processes():
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST_S) == 130
    place.check_nothing_is_left()
