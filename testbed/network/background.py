"""Send bytes between hosts over TCP in the background; a thread serves both ends of a transfer.

If another guest builds one of the hosts, that guest serves the host's end.
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
from dataclasses import dataclass
from typing import Self

from testbed.network.built import BuiltNetwork
from testbed.network.netns import inside_netns
from testbed.plan.model import Transfer
from testbed.runfolder.records import TransferEnded

FIRST_PORT = 47_000
CHUNK_BYTES = 1 << 20
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h


@dataclass
class TransferProgress:
    """Number of bytes that a transfer has delivered."""

    start_ns: int
    received: int = 0  # bytes
    error: str | None = None

    def record(self, transfer: Transfer) -> TransferEnded:
        """Return the record of `transfer` as it ends."""
        return TransferEnded(
            source=transfer.source,
            target=transfer.target,
            bytes=transfer.bytes,
            connections=transfer.connections,
            start_ns=self.start_ns,
            received=self.received,
            error=self.error,
            end_ns=time.time_ns(),
        )


class Transfers:
    """The background transfers of a run; leaving the context ends transfers in progress."""

    def __init__(self, network: BuiltNetwork, note: Callable[[TransferEnded], None]) -> None:
        """Prepare to send on `network`; `note` receives the record of each finished transfer."""
        self._network = network
        self._note = note
        self._started = 0  # in all guests
        self._threads: list[threading.Thread] = []
        self._stop_reader, self._stop_writer = os.pipe()  # readable once transfers must end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._stop_writer)
        for thread in self._threads:
            thread.join()
        os.close(self._stop_reader)

    def start(self, transfer: Transfer) -> None:
        """Start `transfer` in a thread, unless both hosts are in other guests."""
        port = FIRST_PORT + self._started
        self._started += 1
        plan = self._network.plan
        ends = (plan.host(transfer.source), plan.host(transfer.target))
        if not any(plan.is_here(host.dc) for host in ends):
            return
        thread = threading.Thread(
            target=self._carry_out, args=(transfer, port), name=f"transfer-{port}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _carry_out(self, transfer: Transfer, port: int) -> None:
        progress = TransferProgress(start_ns=time.time_ns())
        try:
            with ExitStack() as stack:
                sockets = TransferSockets(self._network, transfer, port, stack)
                sockets.serve(progress, self._stop_reader)
        except OSError as error:
            progress.error = os.strerror(error.errno or 0)

        plan = self._network.plan
        if plan.is_here(plan.host(transfer.target).dc):  # who receives knows how much arrived
            self._note(progress.record(transfer))


class TransferSockets:
    """The sockets of one transfer, on those of its hosts that are here."""

    def __init__(
        self, network: BuiltNetwork, transfer: Transfer, port: int, stack: ExitStack
    ) -> None:
        """Listen on the receiving host and connect from the sending host.

        Args:
            network: the network that carries the transfer.
            transfer: hosts, number of bytes and number of connections.
            port: TCP port of the receiving host.
            stack: closes the sockets at its exit.

        Raises:
            OSError: the receiving host cannot listen.
        """
        plan = network.plan
        source = plan.host(transfer.source)
        target = plan.host(transfer.target)
        self._address = (str(target.address.ip), port)
        self._transfer = transfer
        self._stack = stack
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

        self._open = 0  # connections whose end the receiver has not seen
        self._unsent: dict[socket.socket, int] = {}  # bytes

        if plan.is_here(target.dc):
            self._open = transfer.connections
            self._listen(network.pid(target.node))
        if not plan.is_here(source.dc):
            return

        share, remainder = divmod(transfer.bytes, transfer.connections)
        for number in range(transfer.connections):
            size = share + 1 if number < remainder else share
            self._connect(size, network.pid(source.node))

    def _listen(self, target_pid: int) -> None:
        backlog = self._transfer.connections
        with inside_netns(target_pid):
            listener = socket.create_server(self._address, backlog=backlog)
            self._stack.enter_context(listener)

        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _connect(self, size: int, source_pid: int) -> None:
        """Open a connection that sends `size` bytes."""
        with inside_netns(source_pid):
            sender = self._stack.enter_context(socket.socket())
        sender.setblocking(False)

        pace_bps = self._transfer.pace_bps
        if pace_bps is not None:
            pace_bytes = max(1, pace_bps // 8 // self._transfer.connections)
            pace = struct.pack("=Q", pace_bytes)
            sender.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)

        sender.connect_ex(self._address)
        self._unsent[sender] = size
        self._selector.register(sender, selectors.EVENT_WRITE, self._send)

    def serve(self, progress: TransferProgress, stop_reader: int) -> None:
        """Send and receive until all bytes have arrived or `stop_reader` becomes readable.

        Without the receiver, keep the connections until `stop_reader` becomes readable.

        Args:
            progress: counts the received bytes.
            stop_reader: file descriptor that becomes readable when the transfer must end.

        Raises:
            OSError: a connection failed.
        """
        self._selector.register(stop_reader, selectors.EVENT_READ)
        receives = self._open > 0
        while self._open or not receives:
            for key, _events in self._selector.select():
                handle = key.data
                if handle is None:
                    return
                progress.received += handle(key.fileobj)

    # Each handler serves one ready socket and returns the number of bytes received.

    def _accept(self, listener: socket.socket) -> int:
        receiver, _address = listener.accept()
        self._stack.enter_context(receiver)
        receiver.setblocking(False)
        self._selector.register(receiver, selectors.EVENT_READ, self._receive)
        return 0

    def _send(self, sender: socket.socket) -> int:
        chunk = self._buffer[: self._unsent[sender]]
        self._unsent[sender] -= sender.send(chunk)

        if self._unsent[sender] == 0:
            self._selector.unregister(sender)
            sender.shutdown(socket.SHUT_WR)
        return 0

    def _receive(self, receiver: socket.socket) -> int:
        # MSG_TRUNC discards the data without a copy.
        received = receiver.recv_into(self._buffer, CHUNK_BYTES, socket.MSG_TRUNC)

        if received == 0:
            self._selector.unregister(receiver)
            self._open -= 1
        return received
