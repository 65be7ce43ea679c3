"""The host's side of a request to a standing network, with this test in the place of its guest."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.deployments.client import call
from testbed.deployments.folder import Deployment
from testbed.deployments.requests import (
    INTERRUPT,
    KILL,
    STDOUT,
    Reply,
    Request,
    RequestExchange,
)

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
                with open(1, "wb", closefd=False) as out, open(2, "wb", closefd=False) as err:
                    status = call(deployment, request, out, err)
            except KeyboardInterrupt:
                status = 99
            finally:
                os._exit(status)
        os.close(end)
        self.exchange = self._exchange(deployment)

    @staticmethod
    def _exchange(deployment: Deployment) -> RequestExchange:
        deadline = time.monotonic() + LONGEST_S
        while True:
            for exchange in deployment.channel.exchanges():
                return exchange
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def interrupt(self) -> None:
        os.kill(self._pid, signal.SIGINT)

    def has_sent(self, signal_name: str) -> None:
        deadline = time.monotonic() + LONGEST_S
        while not self.exchange.is_signalled(signal_name):
            assert time.monotonic() < deadline, f"no {signal_name} was sent"
            time.sleep(0.0005)

    def status(self) -> int:
        _pid, status = os.waitpid(self._pid, 0)
        os.close(self.output)
        return os.waitstatus_to_exitcode(status)


def test_output_comes_once_despite_interrupts(deployment: Deployment) -> None:
    for _ in range(TRIES):
        client = Client(deployment)
        client.exchange.write(STDOUT, b"first\n")
        assert os.read(client.output, 100) == b"first\n"
        client.interrupt()
        client.has_sent(INTERRUPT)
        client.exchange.write(STDOUT, b"last\n")
        client.exchange.answer(Reply(status=130, time_ns=7))
        assert os.read(client.output, 100) == b"last\n"
        assert client.status() == 130
    assert deployment.read_last_time_ns() == 7
    assert list(deployment.channel.exchanges()) == []


def test_second_and_third_interrupt(deployment: Deployment) -> None:
    client = Client(deployment)
    client.exchange.write(STDOUT, b"first\n")
    assert os.read(client.output, 100) == b"first\n"
    client.interrupt()
    client.has_sent(INTERRUPT)
    assert not client.exchange.is_signalled(KILL)
    client.interrupt()
    client.has_sent(KILL)
    client.interrupt()
    assert client.status() == 99


@pytest.mark.parametrize("text", ["7" * 30, "-1", "1e9", "", "x"])
def test_a_damaged_time(text: str, deployment: Deployment) -> None:
    """A time that Linux cannot have is unknown."""
    deployment.last_time.write_text(text)
    assert deployment.read_last_time_ns() is None
