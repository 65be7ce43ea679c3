"""The host's side of a request to a standing network, with this test in the place of its guest."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.deployments.client import call
from testbed.deployments.folder import Deployment
from testbed.deployments.mailbox import Answer, Mail, Request, mails

LONGEST_S = 20.0
TRIES = 40  # of an interrupt that comes just after the output: 1 in 3 was in the middle of a write


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """It has no guest; all else is as where one runs."""
    made = Deployment(tmp_path)
    made.requests.mkdir()
    made.ready.write_text("{}")
    os.mkfifo(made.lease)
    with ExitStack() as stack:
        alive = stack.enter_context(made.alive.open("w"))
        fcntl.flock(alive, fcntl.LOCK_EX)
        stack.callback(os.close, os.open(made.lease, os.O_RDONLY | os.O_NONBLOCK))
        yield made


class Client:
    """A process that makes a request, on which Ctrl-C has its usual effect."""

    def __init__(self, deployment: Deployment) -> None:
        self.output, end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(end, 1)
            status = 98
            try:
                request = Request(kind="exec", node="a-h0", words=("true",))
                status = call(deployment, request, sys.__stdout__.buffer, sys.__stderr__.buffer)
            except KeyboardInterrupt:
                status = 99
            finally:
                os._exit(status)
        os.close(end)
        self.mail = self._mail(deployment)

    @staticmethod
    def _mail(deployment: Deployment) -> Mail:
        deadline = time.monotonic() + LONGEST_S
        while not (found := mails(deployment.requests)):
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        return found[0]

    def interrupt(self) -> None:
        os.kill(self._pid, signal.SIGINT)

    def has_asked(self, kind: str) -> None:
        deadline = time.monotonic() + LONGEST_S
        while not self.mail.file(kind).exists():
            assert time.monotonic() < deadline, f"it never asked to {kind}"
            time.sleep(0.0005)

    def status(self) -> int:
        _pid, status = os.waitpid(self._pid, 0)
        os.close(self.output)
        return os.waitstatus_to_exitcode(status)


def test_what_is_printed_comes_once_wherever_an_interrupt_falls(deployment: Deployment) -> None:
    for _ in range(TRIES):
        client = Client(deployment)
        client.mail.append("out", b"first\n")
        assert os.read(client.output, 100) == b"first\n"
        client.interrupt()
        client.has_asked("interrupt")
        client.mail.append("out", b"last\n")
        client.mail.put("answer", Answer(status=130, time_ns=7).model_dump_json())
        assert os.read(client.output, 100) == b"last\n"
        assert client.status() == 130
    assert deployment.last_time_ns == 7
    assert mails(deployment.requests) == []


def test_the_second_interrupt_kills_and_after_the_third_nobody_waits(
    deployment: Deployment,
) -> None:
    client = Client(deployment)
    client.mail.append("out", b"first\n")
    assert os.read(client.output, 100) == b"first\n"
    client.interrupt()
    client.has_asked("interrupt")
    assert not client.mail.file("kill").exists()
    client.interrupt()
    client.has_asked("kill")
    client.interrupt()
    assert client.status() == 99
