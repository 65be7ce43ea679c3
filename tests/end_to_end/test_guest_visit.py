"""One command, or a shell, in a separate guest."""

import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import Command

SLOWEST_S = 60


def test_a_command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output and exit status; it is root, has no network, sees this machine's files and cannot
    change them.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("untouched\n")
    script = (
        "pwd; id -u; uname -r; ip -br link show up | cut -d' ' -f1; cat here; "
        "echo changed > here; exit 3"
    )
    done = command("guest", "exec", "--", "sh", "-c", script, status=3)
    folder, user, release, network, text, *rest = done.stdout.splitlines()
    assert (folder, user, network, text) == (str(tmp_path), "0", "lo", "untouched")
    assert release != os.uname().release
    assert "Read-only file system" in " ".join(rest)
    assert (tmp_path / "here").read_text() == "untouched\n"


def test_a_shell_needs_a_terminal(command: Command) -> None:
    done = command("guest", "shell", status=2)
    assert "a shell needs a terminal" in done.stderr


def test_a_shell(command: Command, command_environment: dict[str, str]) -> None:
    """Keys go in, Ctrl-C ends what runs and not the shell, the exit status comes back."""
    del command  # there is a kernel
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable, [sys.executable, "-m", "testbed", "guest", "shell"], command_environment
        )
    seen = wait_for(terminal, "# ", "")
    os.write(terminal, b"echo $((6 * 7))\n")
    seen = wait_for(terminal, "42", seen)
    os.write(
        terminal, b"tail -n1 -f /etc/os-release\n"
    )  # no shell: dash puts Ctrl-C off while it starts a program
    seen = wait_for(terminal, Path("/etc/os-release").read_text().splitlines()[-1], seen)
    os.write(terminal, b"\x03")
    seen = wait_for(terminal, "# ", seen)
    os.write(terminal, b"exit 5\n")
    wait_for(terminal, None, seen)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)


def wait_for(terminal: int, text: str | None, seen: str) -> str:
    """What the terminal shows, up to `text` or the end."""
    start, deadline = len(seen), time.monotonic() + SLOWEST_S
    while text is None or text not in seen[start:]:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 4096).decode(errors="replace")
            except OSError:
                return seen
    return seen
