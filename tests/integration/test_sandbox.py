"""A confined program: what it can change and reach, and when it ends; where it is not allowed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.core.sandbox import CONFINE
from testbed.doctor.machine import try_namespaces

Need = Callable[[object, str], None]
REFUSAL = "sandboxing is unavailable on this system:"
LONGEST_WAIT_S = 30
# $0: a folder that is shared; $1: one that is not.
INTRUDE = """
echo a >"$0/new"
echo b >"$1/new"
rm -f "$1/old"
chmod 777 "$1"
echo c >/dev/shm/confined
ls /dev/shm
"""
NO_MORE_NAMESPACES = """
echo 0 >/proc/sys/user/max_user_namespaces
echo 0 >/proc/sys/user/max_mnt_namespaces
exec "$@"
"""
# A starter of the program in its arguments, in which PID stands for the starter's number.
STARTER = """
import os, subprocess, sys, time
words = [word.replace("PID", str(os.getpid())) for word in sys.argv[1:]]
"""
CONNECT = """
import socket
print([name for _, name in socket.if_nameindex()])
socket.create_connection(("127.0.0.1", 9))
"""


def sandbox(starter: int | str, memory_bytes: int, *folders: Path) -> list[str]:
    """Give the words that confine the program that follows."""
    words = [sys.executable, "-IS", str(CONFINE), str(starter), str(memory_bytes)]
    return [*words, *map(str, folders), "--"]


def confined(
    folders: list[Path], *program: str, memory_bytes: int = 2**20
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*sandbox(os.getpid(), memory_bytes, *folders), *program],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def able(need: Need) -> None:
    need(try_namespaces() == "", "namespaces that keep a program to its folders")


@pytest.mark.usefixtures("able")
def test_writable_folders(tmp_path: Path) -> None:
    inside = tmp_path / "in side"
    outside = tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").write_text("as it was")
    mode = outside.stat().st_mode
    result = confined([inside], "sh", "-c", INTRUDE, str(inside), str(outside))
    assert result.stdout == "confined\n"
    assert result.stderr.count("Read-only file system") == 3
    assert (inside / "new").read_text() == "a\n"
    assert [path.name for path in outside.iterdir()] == ["old"]
    assert outside.stat().st_mode == mode
    assert not Path("/dev/shm/confined").exists()


@pytest.mark.usefixtures("able")
def test_memory_is_limited(tmp_path: Path) -> None:
    script = "head -c 2M /dev/zero >/dev/shm/file"
    result = confined([tmp_path], "sh", "-c", script, memory_bytes=2**20)
    assert "No space left on device" in result.stderr


@pytest.mark.usefixtures("able")
def test_no_network() -> None:
    result = confined([], sys.executable, "-c", CONNECT)
    assert result.stdout == "['lo']\n"
    assert "Network is unreachable" in result.stderr


@pytest.mark.usefixtures("able")
def test_ends_with_its_starter(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = ["sh", "-c", 'echo $$ >"$0"; sleep 60', str(pid_file)]
    start = STARTER + "subprocess.Popen(words)\ntime.sleep(60)\n"
    command = [sys.executable, "-c", start, *sandbox("PID", 0, tmp_path), *program]
    deadline = time.monotonic() + LONGEST_WAIT_S
    with subprocess.Popen(command) as starter:
        while not pid_file.exists() or not pid_file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process = Path("/proc", pid_file.read_text().strip())
        assert process.exists()
        starter.send_signal(signal.SIGKILL)
    while (process / "exe").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("able")
def test_not_allowed(tmp_path: Path) -> None:
    """A user namespace in which no more can be made is such a system."""
    made = tmp_path / "made"
    start = STARTER + "subprocess.run(words)\n"
    system = ["unshare", "--user", "--map-root-user", "--mount"]
    system += ["sh", "-c", NO_MORE_NAMESPACES, "sh", sys.executable, "-c", start]
    program = ["touch", str(made)]
    result = subprocess.run(
        [*system, *sandbox("PID", 0, tmp_path), *program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert REFUSAL in result.stderr
    assert made.exists()
