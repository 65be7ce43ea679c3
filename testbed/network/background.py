"""Bytes that hosts send each other beside the job, over TCP: both ends of a transfer are served by
one thread.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from testbed.network.build import BuiltNetwork
from testbed.network.netlink import inside_netns
from testbed.plan.model import Transfer

FIRST_PORT = 47_000
CHUNK_BYTES = 1 << 20
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h
Record = dict[str, Any]


class Transfers:
    """The transfers of a run. Leaving the context ends those that are under way."""

    def __init__(self, network: BuiltNetwork, note: Callable[[Record], None]) -> None:
        """`note` gets the record of each transfer at its end (see
        `testbed.runfolder.folder.RunDir.transfers`).
        """
        self._network, self._note = network, note
        self._threads: list[threading.Thread] = []
        self._over, self._end = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._end)
        for thread in self._threads:
            thread.join()
        os.close(self._over)

    def start(self, transfer: Transfer) -> None:
        """Begin `transfer`."""
        port = FIRST_PORT + len(self._threads)
        thread = threading.Thread(
            target=self._carry_out, args=(transfer, port), name=f"transfer-{port}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _carry_out(self, transfer: Transfer, port: int) -> None:
        record = {
            "source": transfer.source,
            "target": transfer.target,
            "bytes": transfer.bytes,
            "connections": transfer.connections,
            "start_ns": time.time_ns(),
            "received": 0,
        }
        try:
            with ExitStack() as stack:
                Ends(self._network, transfer, port, stack).serve(record, self._over)
        except OSError as error:
            record["error"] = os.strerror(error.errno or 0)
        self._note(record | {"end_ns": time.time_ns()})


class Ends:
    """The sockets of one transfer, on both of its hosts."""

    def __init__(
        self, network: BuiltNetwork, transfer: Transfer, port: int, stack: ExitStack
    ) -> None:
        source, target = (network.plan.host(name) for name in (transfer.source, transfer.target))
        self._selector, self._stack = stack.enter_context(selectors.DefaultSelector()), stack
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._open = transfer.connections  # connections whose end the receiver has not seen
        address = (str(target.address.ip), port)
        with inside_netns(network.pid(target.node)):
            listener = stack.enter_context(
                socket.create_server(address, backlog=transfer.connections)
            )
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        share, more = divmod(transfer.bytes, transfer.connections)
        self._left: dict[socket.socket, int] = {}
        for number in range(transfer.connections):
            with inside_netns(network.pid(source.node)):
                sender = stack.enter_context(socket.socket())
            sender.setblocking(False)
            if transfer.pace_bps is not None:
                pace = struct.pack("=Q", max(1, transfer.pace_bps // 8 // transfer.connections))
                sender.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
            sender.connect_ex(address)
            self._left[sender] = share + (number < more)
            self._selector.register(sender, selectors.EVENT_WRITE, self._send)

    def serve(self, record: Record, over: int) -> None:
        """Until all has arrived, or `over` can be read; `record` counts what has been received.

        Raises:
            OSError: a connection failed.
        """
        self._selector.register(over, selectors.EVENT_READ)
        while self._open:
            for key, _events in self._selector.select():
                if key.data is None:
                    return
                record["received"] += key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> int:
        receiver = self._stack.enter_context(listener.accept()[0])
        receiver.setblocking(False)
        self._selector.register(receiver, selectors.EVENT_READ, self._receive)
        return 0

    def _send(self, sender: socket.socket) -> int:
        self._left[sender] -= sender.send(self._buffer[: self._left[sender]])
        if not self._left[sender]:
            self._selector.unregister(sender)
            sender.shutdown(socket.SHUT_WR)
        return 0

    def _receive(self, receiver: socket.socket) -> int:
        got = receiver.recv_into(self._buffer, CHUNK_BYTES, socket.MSG_TRUNC)  # nothing is copied
        if not got:
            self._selector.unregister(receiver)
            self._open -= 1
        return got
