"""Connect the bridges of two machines over TCP; both have to know a token of the run."""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
from collections import deque
from contextlib import ExitStack, suppress

from testbed.core.errors import MachineError

NONCE_BYTES = 32
DIGEST = "sha256"
DIGEST_BYTES = 32
PLACE = struct.Struct("=I")  # number of the machine that connects
LENGTH = struct.Struct("=Q")  # bytes of a message
AT_ONCE = 2**20  # bytes read from a socket
HANDSHAKE_S = 10.0
LISTENS = b"listens"
CONNECTS = b"connects"


class BridgeConnection:
    """Messages to and from another machine, of which none waits for the network."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected socket."""
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._to_send: deque[memoryview] = deque()
        self._received = bytearray()

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return self._socket.fileno()

    @property
    def is_behind(self) -> bool:
        """Whether messages still wait to be sent."""
        return bool(self._to_send)

    def send(self, message: bytes) -> None:
        """Send a message, or as much of it as the network takes now; `flush` sends the rest.

        Raises:
            OSError: the connection is lost.
        """
        self._to_send += [memoryview(LENGTH.pack(len(message))), memoryview(message)]
        self.flush()

    def flush(self) -> None:
        """Send more of what is left, as much as the network takes now.

        Raises:
            OSError: the connection is lost.
        """
        with suppress(BlockingIOError):
            while self._to_send:
                first = self._to_send[0]
                sent = self._socket.send(first)
                if sent < len(first):
                    self._to_send[0] = first[sent:]
                else:
                    self._to_send.popleft()

    def receive(self) -> list[bytes]:
        """Return the messages that have arrived completely.

        Raises:
            OSError: the connection is lost.
        """
        with suppress(BlockingIOError):
            data = self._socket.recv(AT_ONCE)
            if not data:
                raise ConnectionError("the other machine has closed the connection")
            self._received += data
        messages: list[bytes] = []
        at = 0
        while len(self._received) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received, at)
            end = at + LENGTH.size + length
            if len(self._received) < end:
                break
            messages.append(bytes(self._received[at + LENGTH.size : end]))
            at = end
        del self._received[:at]
        return messages

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def listen(address: str) -> socket.socket:
    """Return a socket to which other machines can connect, at any free port of an address.

    Raises:
        MachineError: this machine does not have the address.
    """
    try:
        return socket.create_server((address, 0))
    except OSError as error:
        raise MachineError(f"cannot listen at {address}: {error.strerror}") from error


def accept(listener: socket.socket, token: bytes, timeout_s: float) -> tuple[int, BridgeConnection]:
    """Wait for a machine that knows the token, and return its number and the connection.

    Connections of others are closed.

    Raises:
        TimeoutError: none came in time.
    """
    listener.settimeout(timeout_s)
    while True:
        connected, _address = listener.accept()
        connected.settimeout(HANDSHAKE_S)
        try:
            return _check_caller(connected, token), BridgeConnection(connected)
        except OSError:
            connected.close()


def connect(
    address: tuple[str, int], token: bytes, place: int, timeout_s: float
) -> BridgeConnection:
    """Connect to the machine that listens at an address, as machine number `place`.

    Raises:
        MachineError: the machine cannot be reached, or does not know the token.
    """
    try:
        with ExitStack() as stack:
            connected = stack.enter_context(socket.create_connection(address, timeout_s))
            connected.settimeout(HANDSHAKE_S)
            _introduce(connected, token, place)
            stack.pop_all()  # stays open
    except OSError as error:
        host, port = address
        raise MachineError(
            f"cannot connect to the machine {host} at port {port}: {error}\n"
            "  the machines of the cluster must reach each other at any port"
        ) from error
    return BridgeConnection(connected)


def _check_caller(connected: socket.socket, token: bytes) -> int:
    nonce = secrets.token_bytes(NONCE_BYTES)
    connected.sendall(nonce)
    place = _exactly(connected, PLACE.size)
    other_nonce = _exactly(connected, NONCE_BYTES)
    proof = _exactly(connected, DIGEST_BYTES)
    if not hmac.compare_digest(proof, _proof(token, CONNECTS, nonce + other_nonce + place)):
        raise ConnectionError("a stranger")
    connected.sendall(_proof(token, LISTENS, other_nonce + nonce + place))
    (number,) = PLACE.unpack(place)
    return int(number)


def _introduce(connected: socket.socket, token: bytes, number: int) -> None:
    place = PLACE.pack(number)
    nonce = _exactly(connected, NONCE_BYTES)
    own_nonce = secrets.token_bytes(NONCE_BYTES)
    connected.sendall(place + own_nonce + _proof(token, CONNECTS, nonce + own_nonce + place))
    proof = _exactly(connected, DIGEST_BYTES)
    if not hmac.compare_digest(proof, _proof(token, LISTENS, own_nonce + nonce + place)):
        raise ConnectionError("the other end does not belong to this run")


def _proof(token: bytes, role: bytes, data: bytes) -> bytes:
    return hmac.digest(token, role + data, DIGEST)


def _exactly(connected: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connected.recv(length - len(data))
        if not more:
            raise ConnectionError("the other end has closed the connection")
        data += more
    return data
