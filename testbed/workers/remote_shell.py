"""Server of a host that runs commands for other hosts, as an ssh daemon would.

`testbed.workers.remote_client` is the client, which hosts have as ``ssh``, ``rsh`` and ``pdsh``.
Both talk over TCP on the emulated network, without encryption. A message is a kind (one byte), a
length (4 bytes) and that many bytes. The client sends the command and then its standard input; the
server answers with output, errors and at last the exit status.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

PORT = 22
HEADER = struct.Struct("!cI")
COMMAND, INPUT, OUTPUT, ERRORS, STATUS = b"C", b"I", b"O", b"E", b"X"
CHUNK_BYTES = 1 << 16
BACKLOG = 128


def serve(environment: Mapping[str, str], folder: Path, *, port: int = PORT) -> NoReturn:
    """Run the commands of other hosts until this process is ended.

    Args:
        environment: environment variables of the commands.
        folder: working folder of the commands.
        port: TCP port of the server.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for sessions
    with socket.create_server(("", port), backlog=BACKLOG) as server:
        while True:
            connection, _address = server.accept()
            if os.fork() == 0:
                server.close()
                _be_session(connection, environment, folder)

            connection.close()


def _be_session(
    connection: socket.socket, environment: Mapping[str, str], folder: Path
) -> NoReturn:
    """Run the command of one connection, and end this process."""
    for number in (signal.SIGCHLD, signal.SIGHUP):  # below nohup, programs ignore SIGHUP
        signal.signal(number, signal.SIG_DFL)

    with suppress(OSError):  # the client is gone
        _run_session(connection, environment, folder)

    os._exit(0)


def _run_session(connection: socket.socket, environment: Mapping[str, str], folder: Path) -> None:
    messages = connection.makefile("rb")
    kind, command = _receive(messages)
    if kind != COMMAND:
        return

    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
    ) as process:
        feeder = threading.Thread(target=_feed, args=(messages, process), daemon=True)
        feeder.start()
        _relay(connection, process)
        status = process.wait()

    shell_status = 128 - status if status < 0 else status
    _send(connection, STATUS, bytes([shell_status]))


def _feed(messages: BinaryIO, process: subprocess.Popen[bytes]) -> None:
    """Pass the client's input to a process, and hang up the process if the client goes away."""
    assert process.stdin is not None
    while True:
        kind, data = _receive(messages)
        if kind != INPUT:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGHUP)

            return

        try:
            if data:
                process.stdin.write(data)
                process.stdin.flush()
            else:
                process.stdin.close()
        except (OSError, ValueError):  # the process reads no more
            continue


def _relay(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Send a process's output and errors until both end."""
    with selectors.DefaultSelector() as selector:
        for stream, kind in ((process.stdout, OUTPUT), (process.stderr, ERRORS)):
            assert stream is not None
            selector.register(stream.fileno(), selectors.EVENT_READ, kind)

        while selector.get_map():
            for key, _events in selector.select():
                data = os.read(key.fd, CHUNK_BYTES)
                if not data:
                    selector.unregister(key.fd)
                    continue

                _send(connection, key.data, data)


def _send(connection: socket.socket, kind: bytes, data: bytes) -> None:
    connection.sendall(HEADER.pack(kind, len(data)) + data)


def _receive(messages: BinaryIO) -> tuple[bytes, bytes]:
    """Return the kind and the data of the next message; empty if the client is gone or unknown."""
    with suppress(OSError):
        header = messages.read(HEADER.size)
        if len(header) == HEADER.size:
            kind, length = HEADER.unpack(header)
            if kind in (COMMAND, INPUT):  # not a client of another protocol
                return kind, messages.read(length)

    return b"", b""
