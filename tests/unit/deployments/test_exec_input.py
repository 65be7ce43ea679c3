"""The input of `topo exec`, with the guest's agent as a process of this machine."""

import fcntl
import hashlib
import io
import os
import pty
import signal
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.deployments.agent import Agent
from testbed.deployments.client import call
from testbed.deployments.copy import CopyEnd, copy
from testbed.deployments.folder import Deployment, DeploymentPlan
from testbed.deployments.input_source import BytesSource, FileSource, InputSource, raw_terminal
from testbed.deployments.requests import Request
from tests.support.synthetic import two_dcs

LONGEST_S = 30.0
BINARY = os.urandom(3_000_000)


class LocalAgent(Agent):
    """An agent whose commands run on this machine."""

    def _counters(self, node: str) -> None:
        return None

    def _execute(self, request: Request) -> int:
        environment = dict(os.environ)
        if request.terminal:
            environment["TERM"] = request.terminal
        os.execvpe(request.words[0], request.words, environment)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """An agent serves it, in a child of this process."""
    made = Deployment(tmp_path)
    made.requests.mkdir()
    made.ready.write_text("{}")
    os.mkfifo(made.lease)
    plan = DeploymentPlan(
        name="lab",
        network=two_dcs(),
        clock="real",
        seed=0,
        guest_memory_bytes=1,
        cpu=0,
        created_s=0,
    )
    with ExitStack() as stack:
        alive = stack.enter_context(made.alive.open("w"))
        fcntl.flock(alive, fcntl.LOCK_EX)
        stack.callback(os.close, os.open(made.lease, os.O_RDONLY | os.O_NONBLOCK))
        pid = os.fork()
        if pid == 0:
            LocalAgent(made, plan, None).serve()  # type: ignore[arg-type]
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.kill, pid, signal.SIGKILL)
        yield made


def execute(
    deployment: Deployment, *words: str, source: InputSource | None = None, terminal: str = ""
) -> tuple[int, bytes]:
    request = Request(
        kind="exec", node="a", words=words, has_input=source is not None, terminal=terminal
    )
    out, err = io.BytesIO(), io.BytesIO()
    status = call(deployment, request, out, err, source)
    assert err.getvalue() == b""
    assert list(deployment.requests.iterdir()) == []
    return status, out.getvalue()


def test_without_input_the_end_comes_at_once(deployment: Deployment) -> None:
    assert execute(deployment, "cat") == (0, b"")
    assert execute(deployment, "sh", "-c", "read line || exit 3") == (3, b"")


def test_input_arrives_whole(deployment: Deployment) -> None:
    assert execute(deployment, "cat", source=BytesSource(b"")) == (0, b"")
    assert execute(deployment, "cat", source=BytesSource(b"no line feed")) == (0, b"no line feed")
    assert execute(deployment, "cat", source=BytesSource(BINARY)) == (0, BINARY)
    digest = hashlib.sha256(BINARY).hexdigest()
    status, out = execute(deployment, "sha256sum", source=BytesSource(BINARY))
    assert (status, out.split()[0].decode()) == (0, digest)


def test_a_command_that_does_not_read_all(deployment: Deployment) -> None:
    assert execute(deployment, "head", "-c5", source=BytesSource(BINARY)) == (0, BINARY[:5])
    assert execute(deployment, "true", source=BytesSource(BINARY)) == (0, b"")
    slow = "sleep 0.3; sha256sum"
    digest = hashlib.sha256(BINARY).hexdigest().encode()
    assert digest in execute(deployment, "sh", "-c", slow, source=BytesSource(BINARY))[1]


def test_input_from_a_file_and_from_a_slow_pipe(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path.with_name("input")
    file.write_bytes(BINARY)
    with file.open("rb") as opened:
        assert execute(deployment, "cat", source=FileSource(opened.fileno())) == (0, BINARY)
    with Path(os.devnull).open("rb") as nothing:
        assert execute(deployment, "cat", source=FileSource(nothing.fileno())) == (0, b"")
    reader, writer = os.pipe()

    def write_slowly() -> None:
        for word in (b"one\n", b"two\n"):
            os.write(writer, word)
            time.sleep(0.2)
        os.close(writer)

    thread = threading.Thread(target=write_slowly)
    thread.start()
    assert execute(deployment, "cat", source=FileSource(reader)) == (0, b"one\ntwo\n")
    thread.join()
    os.close(reader)


def test_commands_side_by_side(deployment: Deployment) -> None:
    """The input of one command ends, though another one runs."""
    reader, writer = os.pipe()
    results: list[tuple[int, bytes]] = []

    def run() -> None:
        request = Request(kind="exec", node="a", words=("cat",), has_input=True)
        out = io.BytesIO()
        status = call(deployment, request, out, io.BytesIO(), FileSource(reader))
        results.append((status, out.getvalue()))

    thread = threading.Thread(target=run)
    thread.start()
    os.write(writer, b"first")
    time.sleep(0.2)
    request = Request(kind="exec", node="a", words=("sleep", "1"))
    second = threading.Thread(target=call, args=(deployment, request, io.BytesIO(), io.BytesIO()))
    second.start()
    time.sleep(0.2)
    os.close(writer)
    thread.join(LONGEST_S)
    assert results == [(0, b"first")]
    second.join(LONGEST_S)


def typed(deployment: Deployment, keys: bytes, *words: str) -> tuple[int, str]:
    """Run a command in a terminal of 33 rows and 99 columns, in which somebody types `keys`.

    The typing begins after a second, when the command is waiting.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    before = termios.tcgetattr(theirs)
    with raw_terminal(theirs) as source:
        typing = threading.Timer(1, os.write, (ours, keys))
        typing.start()
        status, out = execute(deployment, *words, source=source, terminal="vt220")
    typing.join()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
    return status, out.decode()


def test_terminal(deployment: Deployment) -> None:
    """The command has a terminal of the same size and kind, in a separate session."""
    script = "test -t 0 && test -t 1 && test -t 2 && sleep 0.5 && stty size && echo $TERM"
    status, out = typed(deployment, b"", "sh", "-c", script)
    assert (status, out) == (0, "33 99\r\nvt220\r\n")


def test_keys_of_a_terminal(deployment: Deployment) -> None:
    """A shell echoes what is typed and obeys; Ctrl-D ends it; Ctrl-C interrupts its command."""
    status, out = typed(deployment, b"expr 6 \\* 7; exit 5\n", "sh")
    assert status == 5
    assert "42\r\n" in out
    assert typed(deployment, b"line\n\x04", "cat")[0] == 0
    script = "trap 'exit 9' INT; sleep 20 & wait"
    begin = time.monotonic()
    assert typed(deployment, b"\x03", "sh", "-c", script)[0] in (9, 130)
    assert time.monotonic() - begin < LONGEST_S / 2


def test_copy_ends() -> None:
    here, there = CopyEnd("", "a"), CopyEnd("a-h0", "/tmp/a")
    for source, target in ((here, here), (there, there)):
        with pytest.raises(InputError, match="exactly one of the two as HOST:PATH"):
            copy(Deployment(Path("nowhere")), source, target)
