"""Connections between machines: whole messages, and only between the machines of one run."""

import threading
import time

import pytest

from testbed.core.errors import MachineError
from testbed.guest.bridge.connection import BridgeConnection, accept, connect, listen

LOOPBACK = "127.0.0.1"
TOKEN, OTHER_TOKEN = b"a" * 32, b"b" * 32
PATIENCE_S = 20.0


def until_received(
    connection: BridgeConnection, other: BridgeConnection, number: int
) -> list[bytes]:
    received: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(received) < number and time.monotonic() < deadline:
        other.flush()
        received += connection.receive()
    return received


def test_messages_arrive_whole_and_in_order() -> None:
    """Also those that a socket does not take at once."""
    with listen(LOOPBACK) as listener:
        caller: list[BridgeConnection] = []
        address = listener.getsockname()
        thread = threading.Thread(
            target=lambda: caller.append(connect(address, TOKEN, 3, PATIENCE_S))
        )
        thread.start()
        place, answered = accept(listener, TOKEN, PATIENCE_S)
        thread.join()
    assert place == 3
    ends = [caller[0], answered]
    messages = [b"", b"x", bytes(20_000_000), b"last"]
    for sender, receiver in (ends, ends[::-1]):
        for message in messages:
            sender.send(message)
        assert sender.is_behind
        assert until_received(receiver, sender, len(messages)) == messages
        assert not sender.is_behind
    ends[0].close()
    with pytest.raises(OSError):
        until_received(ends[1], ends[1], 1)
    ends[1].close()


def test_strangers_are_refused() -> None:
    """A caller with another token gets no answer, and the listener goes on to wait."""
    with listen(LOOPBACK) as listener:
        address = listener.getsockname()
        errors: list[MachineError] = []

        def call() -> None:
            try:
                connect(address, OTHER_TOKEN, 1, PATIENCE_S)
            except MachineError as error:
                errors.append(error)
            connect(address, TOKEN, 2, PATIENCE_S).close()

        thread = threading.Thread(target=call)
        thread.start()
        place, connection = accept(listener, TOKEN, PATIENCE_S)
        connection.close()
        thread.join()
        assert place == 2
        assert len(errors) == 1
        assert "cannot connect to the machine 127.0.0.1" in str(errors[0])


def test_a_caller_notices_that_the_listener_is_a_stranger() -> None:
    with listen(LOOPBACK) as listener:

        def pretend() -> None:
            connected, _address = listener.accept()
            with connected:
                connected.sendall(bytes(32))
                connected.recv(100)
                connected.sendall(bytes(32))

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(MachineError, match="does not belong to this run"):
            connect(listener.getsockname(), TOKEN, 1, PATIENCE_S)
        thread.join()


def test_nobody_comes() -> None:
    with listen(LOOPBACK) as listener, pytest.raises(TimeoutError):
        accept(listener, TOKEN, 0.1)
