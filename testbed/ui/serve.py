"""Start the dashboard's server: which address it listens on, and who may use it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn

from testbed.core.errors import InputError, MachineError, Place
from testbed.ui.app import Dashboard
from testbed.ui.guard import LEAST_TOKEN, Guard, is_loopback

FIRST_PORT = 8600
TRIED_PORTS = 20
END_S = 1  # after which open streams of events are cut off


def serve(
    folder: Path,
    *,
    host: str,
    port: int | None,
    token: str,
    ready: Callable[[str], object],
) -> None:
    """Serve the dashboard until the process is interrupted.

    Args:
        folder: folder of results.
        host: address to listen on.
        port: port; 0: any that is free; None: the first free one from `FIRST_PORT` on.
        token: what browsers must know; empty: nothing, which is for loopback only.
        ready: called with the address of the page once the server listens.

    Raises:
        InputError: The folder, the host or the token is wrong, or the port is taken.
        MachineError: The machine has no such address.
    """
    if not folder.is_dir():
        remedy = "name the folder of your runs, such as results"
        raise InputError("no such folder", place=Place(folder), remedy=remedy)
    address = check_access(host, token)
    listener = listen(address, port)
    try:
        number = listener.getsockname()[1]
        dashboard = Dashboard(folder)
        app = Guard(
            dashboard.app(),
            on_loopback=is_loopback(address),
            token=token,
            port=number,
        )
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=END_S,
        )
        shown = f"[{address}]" if ":" in address else address
        query = f"?token={token}" if token else ""
        ready(f"http://{shown}:{number}/{query}")
        _Server(config, dashboard.feeds.close).run(sockets=[listener])
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """A server that ends its streams of events first when a signal ends the server."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], object]) -> None:
        super().__init__(config)
        self._close = close

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._close()
        super().handle_exit(sig, frame)


def check_access(host: str, token: str) -> str:
    """Return the address to listen on.

    Raises:
        InputError: The host is not an address, or is not loopback and there is no token, or the
            token is short.
    """
    name = "127.0.0.1" if host == "localhost" else host
    try:
        address = ip_address(name)
    except ValueError:
        remedy = "such as 127.0.0.1, or 0.0.0.0 for all interfaces"
        what = f"{host!r} is not an IP address"
        raise InputError(what, place=Place("--host"), remedy=remedy) from None
    if token and (len(token) < LEAST_TOKEN or not token.isalnum() or not token.isascii()):
        raise InputError(
            f"a token needs at least {LEAST_TOKEN} letters and digits, and nothing else",
            place=Place("--token"),
            remedy="such as the output of: openssl rand -hex 16",
        )
    if not address.is_loopback and not token:
        raise InputError(
            f"everyone who reaches {host} could watch runs and end networks",
            place=Place("--host"),
            remedy="add --token, or keep 127.0.0.1 and forward the port with ssh -L",
        )
    return str(address)


def listen(address: str, port: int | None) -> socket.socket:
    """Return a listening socket.

    Raises:
        InputError: The port is taken.
        MachineError: The machine has no such address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ports = range(FIRST_PORT, FIRST_PORT + TRIED_PORTS) if port is None else [port]
    for number in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, number))
            listener.listen()
        except OSError as error:
            listener.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                what = f"cannot listen on {address}: {error.strerror}"
                raise MachineError(f"{what}\n  choose an address of this machine") from error
            continue
        return listener
    taken = str(ports[0]) if len(ports) == 1 else f"{ports[0]} to {ports[-1]}"
    raise InputError(f"port {taken} is taken", place=Place("--port"), remedy="choose another")
