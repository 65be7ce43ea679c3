"""Run the guest of one deployment, as the guest's parent process.

usage: python -m testbed.deployments.keeper FOLDER

While nobody uses the network, the keeper is the only process of a deployment on the host.
`testbed.deployments.service.deploy` starts the keeper in a new session. The keeper inherits the
lock that shows that the keeper is alive. A guest ends with its parent and is cleaned up after its
parent; the parent is the keeper, so deployments need no special case.

On the virtual clock, the guest is stopped (SIGSTOP to its kernel) whenever nobody holds a lease,
that is, has the FIFO open for writing. So the guest's time stands still between two commands, and
an idle deployment uses no CPU. The holder of a new lease writes a byte; the keeper notices the end
of a lease even if the holder is killed.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from pathlib import Path

from testbed.core.errors import RunError, StorageError, TestbedError
from testbed.deployments.folder import Deployment, Pids
from testbed.deployments.requests import KILL
from testbed.execution.guest_code import code_for_guests
from testbed.execution.launch import tail
from testbed.guest.boot import Guest, GuestSpec, start_guest
from testbed.guest.kernel import ensure_kernel
from testbed.runfolder.files import replace_text

FIFO_BYTES = 4096  # read at once; each lease writes one byte


def keep(deployment: Deployment) -> None:
    """Boot the guest and supervise the guest until its end.

    If the deploying command ends before the network is ready, the deployment is removed.

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
    """Let the guest run while anybody holds a lease, until the guest has ended.

    Args:
        deployment: the deployment.
        guest: the deployment's guest.
        freezes: whether the guest is paused while nobody holds a lease.

    Returns:
        False if the deploying command ended before the network was ready.
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
        # The last lease has ended. The FIFO keeps reporting the end until reopened.
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
    """Kill commands whose sender has ended, and remove their files once there is a reply."""
    for exchange in deployment.channel.exchanges():
        sender = Path("/proc", str(exchange.sender))
        if sender.exists():
            continue
        if exchange.reply() is None:
            exchange.signal(KILL)
        else:
            exchange.remove()


def main(folder: str) -> int:
    """Run the deployment in `folder`, and record the reason of an unexpected end.

    Returns:
        The exit status for the command that waits for the network.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(0))
    deployment = Deployment(Path(folder))
    try:
        deployment.write_pids(Pids(keeper=os.getpid()))
        keep(deployment)
        last_lines = tail(deployment.console)
        reason = f"the guest has ended; the last lines of its console:\n{last_lines}"
        exit_status = RunError.exit_status
    except TestbedError as error:
        reason = str(error)
        exit_status = error.exit_status
    except OSError as error:
        reason = f"a file of the deployment could not be written or read: {error}"
        exit_status = StorageError.exit_status

    if deployment.path.exists():
        try:
            replace_text(deployment.ended, reason)
        except OSError:
            print(reason)  # into the log, which is read instead

    return exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
