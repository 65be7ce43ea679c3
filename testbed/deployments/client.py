"""Ask a deployed network for something, and relay what it says while it says it."""

from __future__ import annotations

import errno
import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from testbed.core.errors import GuestLost, RunError
from testbed.deployments.folder import Deployment
from testbed.deployments.mailbox import Mail, Request, post

POLL_S = 0.005
INTERRUPTED = 128 + signal.SIGINT
CHECK_S = 0.2  # how often it is asked whether the guest still lives


def call(deployment: Deployment, request: Request, out: BinaryIO, err: BinaryIO) -> int:
    """Have the guest carry out `request`; its exit status. What it prints goes to `out` and `err`
    at once.

    Ctrl-C (or SIGTERM) interrupts what runs in the guest, a second one kills it, and with a third
    nobody waits for it.

    Raises:
        GuestLost: the guest ended meanwhile.
        KeyboardInterrupt: interrupted three times.
    """
    with lease(deployment):
        mail = post(deployment.requests, request)
        try:
            with _interrupts_forwarded(mail):
                status = _follow(deployment, mail, {"out": out, "err": err})
        except BaseException:
            mail.put("kill")
            raise
        mail.remove()
        return status


def answer(deployment: Deployment, request: Request) -> str:
    """What the guest prints about a request.

    Raises:
        RunError: the request failed.
        GuestLost: the guest ended meanwhile.
        KeyboardInterrupt: it was interrupted.
    """
    out, err = io.BytesIO(), io.BytesIO()
    status = call(deployment, request, out, err)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise RunError(err.getvalue().decode(errors="replace").strip())
    return out.getvalue().decode()


@contextmanager
def lease(deployment: Deployment) -> Iterator[None]:
    """The guest runs, and is not stopped, within the block.

    Raises:
        GuestLost: it has ended.
    """
    try:
        fd = os.open(deployment.lease, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENOENT):
            raise
        raise _lost(deployment) from error
    try:
        os.write(fd, b"\n")
        yield
    finally:
        os.close(fd)


@contextmanager
def _interrupts_forwarded(mail: Mail) -> Iterator[None]:
    """Signals that would interrupt this process go to the guest; the third is raised.

    They are not raised before, because what interrupts a write leaves it open how much was written.
    """
    wishes = iter(("interrupt", "kill"))

    def forward(number: int, frame: object) -> None:
        wish = next(wishes, None)
        if wish is None:
            raise KeyboardInterrupt
        mail.put(wish)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {
        number: handler for number, handler in before.items() if callable(handler)
    }  # not those it ignores
    for number in handled:
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _follow(deployment: Deployment, mail: Mail, streams: dict[str, BinaryIO]) -> int:
    offsets = dict.fromkeys(streams, 0)
    checked = time.monotonic()
    while True:
        ended = mail.answer()
        for kind, stream in streams.items():
            offsets[kind] += _relay(mail, kind, offsets[kind], stream)
        if ended is not None:
            deployment.write(deployment.last_time, str(ended.time_ns))
            return ended.status
        if time.monotonic() - checked > CHECK_S:
            checked = time.monotonic()
            if deployment.state != "running":
                raise _lost(deployment)
        time.sleep(POLL_S)


def _relay(mail: Mail, kind: str, offset: int, stream: BinaryIO) -> int:
    try:
        with mail.file(kind).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return 0
    if data:
        stream.write(data)
        stream.flush()
    return len(data)


def _lost(deployment: Deployment) -> GuestLost:
    return GuestLost(f"the deployment {deployment.name} has ended: {deployment.why_ended()}")
