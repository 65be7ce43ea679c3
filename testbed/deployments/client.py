"""Send requests to a deployed network, and relay the output of the guest as produced."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from testbed.core.errors import GuestLost, InputError, RunError
from testbed.core.suggestions import suggest
from testbed.deployments.folder import Deployment
from testbed.deployments.input import InputSender
from testbed.deployments.input_source import InputSource
from testbed.deployments.names import node_names
from testbed.deployments.requests import (
    INTERRUPT,
    KILL,
    STDERR,
    STDOUT,
    Reply,
    Request,
    RequestExchange,
)

POLL_S = 0.005
CHECK_S = 0.2  # between two checks that the guest is alive
INTERRUPTED = 128 + signal.SIGINT


def exec_request(
    deployment: Deployment,
    node: str,
    words: Sequence[str],
    *,
    has_input: bool = False,
    terminal: str = "",
) -> Request:
    """Return a request to run a command on a node.

    Args:
        deployment: a running deployment.
        node: a host, or a datacenter for its border router.
        words: the command.
        has_input: whether the command gets input; otherwise its input is empty.
        terminal: kind of the command's terminal, as in the variable TERM; empty: no terminal.

    Raises:
        InputError: the command is empty, or the node does not exist.
    """
    if not words:
        remedy = "use the form: testbed topo exec iowa-h0 -- ip address"
        raise InputError("no command given", remedy=remedy)

    known = known_nodes(deployment)
    if node not in known and node not in deployment.read_ready().nodes:
        what = f"{deployment.name} has no host {node!r}"
        raise InputError(what, remedy=suggest(node, known, "hosts"))
    return Request(
        kind="exec", node=node, words=tuple(words), has_input=has_input, terminal=terminal
    )


def known_nodes(deployment: Deployment) -> list[str]:
    """Return the names of all nodes as people use them; nodes without one have the kernel's."""
    named = node_names(deployment.read_plan().network)
    others = [node for node in deployment.read_ready().nodes if node not in named.values()]
    return [*named, *others]


def call(
    deployment: Deployment,
    request: Request,
    out: BinaryIO,
    err: BinaryIO,
    source: InputSource | None = None,
    warn: Callable[[str], object] | None = None,
) -> int:
    """Carry out a request in the guest, relay the output, and return the exit status.

    Ctrl-C (or SIGTERM) interrupts the command in the guest, a second Ctrl-C kills the command, and
    a third stops waiting for the guest.

    Args:
        deployment: a running deployment.
        request: the request.
        out: receives the guest's standard output immediately.
        err: receives the guest's standard error immediately.
        source: the command's input, for a request with input.
        warn: called at the end with each warning about the network; None: warnings are lost.

    Returns:
        The exit status, as in a shell.

    Raises:
        GuestLost: the guest ended meanwhile.
        KeyboardInterrupt: the third interrupt.
    """
    with lease(deployment):
        exchange = deployment.channel.post(request)
        try:
            with _interrupts_forwarded(exchange):
                reply = _follow(deployment, exchange, {STDOUT: out, STDERR: err}, source)
        except BaseException:
            exchange.signal(KILL)
            raise
        exchange.remove()

    for warning in reply.warnings:
        if warn is not None:
            warn(warning)
    return reply.status


def answer(deployment: Deployment, request: Request) -> str:
    """Carry out a request in the guest, and return the output of the guest.

    Raises:
        RunError: the request failed.
        GuestLost: the guest ended meanwhile.
        KeyboardInterrupt: the request was interrupted.
    """
    out, err = io.BytesIO(), io.BytesIO()
    status = call(deployment, request, out, err)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        message = err.getvalue().decode(errors="replace")
        raise RunError(message.strip())
    return out.getvalue().decode()


@contextmanager
def lease(deployment: Deployment) -> Iterator[None]:
    """Hold a lease within the block, which keeps the guest running.

    Raises:
        GuestLost: the guest has ended.
    """
    try:
        fd = os.open(deployment.lease, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):  # the FIFO has no reader, or does not exist
            raise _lost(deployment) from error
        raise

    try:
        os.write(fd, b"\n")
        yield
    finally:
        os.close(fd)


@contextmanager
def _interrupts_forwarded(exchange: RequestExchange) -> Iterator[None]:
    """Forward interrupting signals of this process to the guest; raise only the third.

    The first two are not raised, because an interrupted write does not report the number of bytes
    written. Only the main thread receives signals; in other threads nothing is forwarded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    forwarded = iter((INTERRUPT, KILL))

    def forward(number: int, frame: object) -> None:
        name = next(forwarded, None)
        if name is None:
            raise KeyboardInterrupt
        exchange.signal(name)

    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):  # this process does not ignore the signal
            handlers[number] = handler
            signal.signal(number, forward)

    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _follow(
    deployment: Deployment,
    exchange: RequestExchange,
    outputs: dict[str, BinaryIO],
    source: InputSource | None,
) -> Reply:
    """Relay the streams of a request until the guest has replied, and return the reply.

    Args:
        deployment: a running deployment.
        exchange: the request.
        outputs: receiver of each stream, by name.
        source: the input; None: there is none.

    Raises:
        GuestLost: the guest ended meanwhile.
    """
    offsets = dict.fromkeys(outputs, 0)
    sender = InputSender(exchange)
    next_check = time.monotonic() + CHECK_S

    while True:
        reply = exchange.reply()  # read first: the streams are complete once there is a reply
        for stream, output in outputs.items():
            while data := exchange.read(stream, offsets[stream]):
                offsets[stream] += len(data)
                output.write(data)
                output.flush()
                if reply is None:
                    break
        if reply is not None:
            with suppress(OSError):  # on a full disk, only `inspect` misses the time
                deployment.write_last_time_ns(reply.time_ns)
            return reply
        if source is not None and source.send_available(sender):
            continue
        if time.monotonic() > next_check:
            next_check = time.monotonic() + CHECK_S
            if deployment.state != "running":
                raise _lost(deployment)
        time.sleep(POLL_S)


def _lost(deployment: Deployment) -> GuestLost:
    reason = deployment.why_ended()
    return GuestLost(f"the deployment {deployment.name} has ended: {reason}")
