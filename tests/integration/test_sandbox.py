"""A confined program: what it can change and reach, when it ends, and where that is refused."""

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
REFUSAL = "not kept to its folders, because this system does not allow it"


def confined(
    folders: list[Path], *program: str, memory: int = 2**20
) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-IS",
        str(CONFINE),
        str(os.getpid()),
        str(memory),
        *map(str, folders),
        "--",
        *program,
    ]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture
def able(need: Need) -> None:
    need(try_namespaces() == "", "namespaces that keep a program to its folders")


def test_writable_folders(able: None, tmp_path: Path) -> None:
    inside, beside = tmp_path / "in side", tmp_path / "beside"
    inside.mkdir()
    beside.mkdir()
    (beside / "old").write_text("as it was")
    mode = beside.stat().st_mode
    commands = [
        'echo a >"$0/new"',
        'echo b >"$1/new"',
        'rm -f "$1/old"',
        'chmod 777 "$1"',
        "echo c >/dev/shm/confined",
        "ls /dev/shm",
    ]
    script = "; ".join(commands)
    done = confined([inside], "sh", "-c", script, str(inside), str(beside))
    assert done.stdout == "confined\n"
    assert done.stderr.count("Read-only file system") == 3
    assert (inside / "new").read_text() == "a\n"
    assert [path.name for path in beside.iterdir()] == ["old"]
    assert beside.stat().st_mode == mode
    assert not Path("/dev/shm/confined").exists()


def test_memory_is_limited(able: None, tmp_path: Path) -> None:
    done = confined([tmp_path], "sh", "-c", "head -c 2M /dev/zero >/dev/shm/file", memory=2**20)
    assert "No space left on device" in done.stderr


def test_no_network(able: None) -> None:
    program = (
        "import socket; print([name for _, name in socket.if_nameindex()]); "
        "socket.create_connection(('127.0.0.1', 9))"
    )
    done = confined([], sys.executable, "-c", program)
    assert done.stdout == "['lo']\n"
    assert "Network is unreachable" in done.stderr


def test_ends_with_its_starter(able: None, tmp_path: Path) -> None:
    program = [sys.executable, "-IS", str(CONFINE), "PID", "0", str(tmp_path)]
    program += ["--", "sh", "-c", 'echo $$ >"$0/pid"; sleep 60']
    start = "import os, subprocess, sys, time\n"
    start += "words = [w.replace('PID', str(os.getpid())) for w in sys.argv[1:]]\n"
    start += "subprocess.Popen(words)\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", start, *program, str(tmp_path)]) as starter:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
        assert Path("/proc", str(pid)).exists()
        starter.send_signal(signal.SIGKILL)
    while Path("/proc", str(pid), "exe").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_not_allowed(able: None, tmp_path: Path) -> None:
    """A user namespace in which no more can be made is such a system."""
    limit = (
        "echo 0 >/proc/sys/user/max_user_namespaces; "
        'echo 0 >/proc/sys/user/max_mnt_namespaces; exec "$@"'
    )
    words = [
        sys.executable,
        "-IS",
        str(CONFINE),
        "PID",
        "0",
        str(tmp_path),
        "--",
        "touch",
        str(tmp_path / "made"),
    ]
    start = "import os, subprocess, sys\n"
    start += "subprocess.run([word.replace('PID', str(os.getpid())) for word in sys.argv[1:]])"
    outer = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", limit, "sh"]
    done = subprocess.run(
        [*outer, sys.executable, "-c", start, *words], capture_output=True, text=True, check=False
    )
    assert REFUSAL in done.stderr
    assert (tmp_path / "made").exists()
