"""Own the guest of one deployment, as its parent.

usage: python -m testbed.deployments.keeper FOLDER

The keeper is the only process of a deployment on the host while nobody uses the network.
`testbed.deployments.service.deploy` starts it in a separate session. It inherits the lock that
shows that it lives. A guest ends with the process that started it, and is cleared away after that
process; here that process is the keeper, so a deployment needs no exception.

On the virtual clock, the guest is stopped (SIGSTOP to its kernel) whenever nobody holds a lease,
which means to have the FIFO open for writing. So the guest's time stands still between two
commands, and waiting costs no CPU. Whoever takes a lease writes a byte; the keeper notices the end
of a lease even if its holder is killed.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from pathlib import Path

from testbed.core.errors import TestbedError
from testbed.deployments.folder import Deployment, Pids
from testbed.deployments.requests import KILL
from testbed.execution.guest_code import code_for_guests
from testbed.execution.launch import tail
from testbed.guest.boot import Guest, GuestSpec, start_guest
from testbed.guest.kernel import ensure_kernel
from testbed.runfolder.files import replace_text

FIFO_BYTES = 4096  # read at once; each lease writes one byte


def keep(deployment: Deployment) -> None:
    """Boot the guest and look after it until it ends.

    If the command that deploys goes away before the network stands, the deployment is removed.

    Raises:
        TestbedError: the guest could not be started.
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
        clock_file=deployment.raw / "clock",
        readable=code.readable,
        environment=code.environment,
        cpu=plan.cpu,
    )

    with start_guest(spec) as guest:
        deployment.write_pids(Pids(keeper=os.getpid(), guest=guest.process.pid))
        wanted = _follow_leases(deployment, guest, freezes=plan.clock == "virtual")
    if not wanted:
        shutil.rmtree(deployment.path)


def _follow_leases(deployment: Deployment, guest: Guest, *, freezes: bool) -> bool:
    """Let the guest run while somebody holds a lease, until the guest has ended.

    Args:
        deployment: the deployment.
        guest: its guest.
        freezes: whether the guest is paused while nobody holds a lease.

    Returns:
        False if nobody waits any more for a network that does not stand yet.
    """
    end = os.pidfd_open(guest.process.pid)
    lease = _open_lease(deployment)
    poller = select.poll()
    poller.register(end, select.POLLIN)
    poller.register(lease, select.POLLIN)

    while True:
        events = dict(poller.poll())
        if end in events:
            return True
        if events[lease] & select.POLLIN:
            os.read(lease, FIFO_BYTES)
            guest.resume()
            continue
        # The last lease has ended. The FIFO reports that without end unless it is opened again.
        reopened = _open_lease(deployment)
        poller.unregister(lease)
        os.close(lease)
        lease = reopened
        poller.register(lease, select.POLLIN)
        if not deployment.ready.exists():
            return False
        _abandon_requests(deployment)
        if freezes:
            guest.pause()


def _open_lease(deployment: Deployment) -> int:
    return os.open(deployment.lease, os.O_RDONLY | os.O_NONBLOCK)


def _abandon_requests(deployment: Deployment) -> None:
    """Have the guest end commands whose sender is gone, and remove the files of ended ones."""
    for exchange in deployment.channel.exchanges():
        sender = Path("/proc", str(exchange.sender))
        if sender.exists():
            continue
        if exchange.reply() is None:
            exchange.signal(KILL)
        else:
            exchange.remove()


def main(folder: str) -> None:
    """Keep the deployment in `folder`, and write into the folder why it ended by itself."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    deployment = Deployment(Path(folder))
    deployment.write_pids(Pids(keeper=os.getpid()))
    try:
        keep(deployment)
        last_lines = tail(deployment.console)
        reason = f"the guest has ended; the last lines of its console:\n{last_lines}"
    except TestbedError as error:
        reason = str(error)

    if deployment.path.exists():
        replace_text(deployment.ended, reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
