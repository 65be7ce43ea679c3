"""Owns the guest of one deployment: its parent, and the only process of a deployment on the host
while nobody uses it.

usage: python -m testbed.deployments.keeper FOLDER

Started by `deployment.deploy` in a session of its own, it inherits the lock that tells that it
lives. A guest ends with its starter and is cleared away after it, and here the starter is the
keeper; so a deployment needs no exception.

On the virtual clock the guest is stopped (SIGSTOP to its kernel) whenever nobody holds a lease,
which is what having the FIFO open for writing is called here. So its time stands still between two
commands, and waiting costs no CPU. Whoever takes a lease writes a byte, and its end is seen even if
it is killed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
from pathlib import Path

from testbed.core.errors import TestbedError
from testbed.deployments.folder import Deployment
from testbed.deployments.mailbox import mails
from testbed.execution.guest_code import code_for_guests
from testbed.execution.launch import tail
from testbed.guest.boot import Guest, GuestSpec, start_guest
from testbed.guest.kernel import ensure_kernel


def keep(deployment: Deployment) -> None:
    """Boot the guest and look after it until it ends, or until the command that asked for it has
    gone away.

    Raises:
        TestbedError: it could not be started.
    """
    plan = deployment.read_plan()
    code = code_for_guests()
    spec = GuestSpec(
        kernel=ensure_kernel(),
        command=[*code.python, "testbed.deployments.agent", str(deployment.path)],
        writable=deployment.path,
        memory_bytes=plan.guest_memory_bytes,
        clock=plan.clock,
        console=deployment.console,
        clock_file=deployment.path / "raw/clock",
        readable=code.readable,
        environment=code.environment,
        cpu=plan.cpu,
    )
    with start_guest(spec) as guest:
        deployment.write(
            deployment.pids, json.dumps({"keeper": os.getpid(), "guest": guest.process.pid})
        )
        wanted = _serve(deployment, guest, freezes=plan.clock == "virtual")
    if not wanted:
        shutil.rmtree(deployment.path)


def _serve(deployment: Deployment, guest: Guest, *, freezes: bool) -> bool:
    """Until the guest has ended (true), or nobody waits any more for a network that does not stand
    yet (false).
    """
    end = os.pidfd_open(guest.process.pid)
    lease = os.open(deployment.lease, os.O_RDONLY | os.O_NONBLOCK)
    poller = select.poll()
    poller.register(end, select.POLLIN)
    poller.register(lease, select.POLLIN)
    while True:
        events = dict(poller.poll())
        if end in events:
            return True
        if events[lease] & select.POLLIN:
            os.read(lease, 4096)
            guest.resume()
            continue
        fresh = os.open(
            deployment.lease, os.O_RDONLY | os.O_NONBLOCK
        )  # a FIFO that had writers tells so for ever
        poller.unregister(lease)
        os.close(lease)
        lease = fresh
        poller.register(lease, select.POLLIN)
        if not deployment.ready.exists():
            return False
        _abandon_requests(deployment)
        if freezes:
            guest.pause()


def _abandon_requests(deployment: Deployment) -> None:
    """Have the guest end the commands whose sender is gone, and remove what was left of others."""
    for mail in mails(deployment.requests):
        if Path("/proc", str(mail.sender)).exists():
            continue
        if mail.answer() is None:
            mail.put("kill")
        else:
            mail.remove()


def main(folder: str) -> None:
    """Keep the deployment in `folder`; say in its folder why it ended, unless it was told to
    end.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    deployment = Deployment(Path(folder))
    deployment.write(deployment.pids, json.dumps({"keeper": os.getpid()}))
    try:
        keep(deployment)
        reason = f"the guest has ended; the last lines of its console:\n{tail(deployment.console)}"
    except TestbedError as error:
        reason = str(error)
    if deployment.path.exists():
        deployment.write(deployment.ended, reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
