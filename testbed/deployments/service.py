"""Create, find and destroy the deployments of this user."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from testbed.core.errors import InputError, MachineError, Place, RunError
from testbed.core.full_disk import write_failure
from testbed.core.held_signals import HeldSignals
from testbed.core.leftovers import forget
from testbed.core.ownership import claim, is_claimed
from testbed.core.paths import cache_dir
from testbed.core.suggestions import suggest
from testbed.deployments.folder import Deployment, DeploymentPlan
from testbed.execution.cleanup import reap
from testbed.execution.requirements import require_deployment
from testbed.execution.supervise import Progress
from testbed.guest.boot import check_guest
from testbed.guest.kernel import ensure_kernel
from testbed.plan.budget import machine_memory, windows_bytes, with_packets
from testbed.plan.model import Clock
from testbed.plan.resolve import resolve_network
from testbed.spec.topology import Topology

# Default memory of a guest; the host allocates pages on first use.
BASE_MEMORY_BYTES = 2**30
HOST_MEMORY_BYTES = 16 * 2**20
LONGEST_END_S = 10.0  # time limit for a keeper to end its guest
POLL_S = 0.02
KEEPER = "testbed.deployments.keeper"
# Keepers that are children of this process and must be reaped, by folder.
_keepers: dict[Path, subprocess.Popen[bytes]] = {}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def deployments() -> list[Deployment]:
    """Return all deployments sorted by name, including ended ones."""
    paths = sorted(deployments_folder().iterdir())
    return [Deployment(path) for path in paths if path.is_dir()]


def find(name: str | None, *, running: bool = True) -> Deployment:
    """Return a deployment by name.

    Args:
        name: name of the deployment; None: the only deployment.
        running: whether the deployment must be running.

    Raises:
        InputError: there is no such deployment, several match, or the deployment is not running.
    """
    known = {deployment.name: deployment for deployment in deployments()}
    if not known:
        remedy = "deploy one with: testbed topo deploy TOPOLOGY"
        raise InputError("no networks are deployed", remedy=remedy)
    if name is None:
        if len(known) > 1:
            names = ", ".join(known)
            raise InputError(
                f"several networks are deployed: {names}", remedy="select one with -t NAME"
            )
        name = next(iter(known))

    if name not in known:
        remedy = suggest(name, known, "deployed")
        raise InputError(f"unknown deployment {name!r}", remedy=remedy)

    deployment = known[name]
    if running:
        _check_running(deployment)

    return deployment


def _check_running(deployment: Deployment) -> None:
    state = deployment.state
    if state == "running":
        return

    reason = "the network is being built"
    if state != "starting":
        reason = deployment.why_ended().splitlines()[0]

    raise InputError(
        f"the deployment {deployment.name} is not running ({state}): {reason}",
        remedy=f"remove what is left with: testbed topo destroy {deployment.name}",
    )


def deploy(
    name: str,
    topology: Topology,
    *,
    clock: Clock,
    seed: int,
    memory_bytes: int | None,
    progress: Progress,
) -> Deployment:
    """Build the network of a topology in a persistent guest; return once the network is ready.

    After an interrupt or a failure, nothing is left behind.

    Args:
        name: name of the deployment.
        topology: the topology.
        clock: the guest's clock.
        seed: seed of random choices in the network.
        memory_bytes: memory of the guest; None: derived from the number of hosts.
        progress: display of the progress.

    Raises:
        InputError: the name is taken or invalid.
        MachineError: there is no kernel, the kernel has no virtual clock, memory is insufficient,
            or a package or program is missing.
        RunError: the network could not be built.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a valid deployment name",
            place=Place("--name"),
            remedy="use letters, digits, dots, hyphens and underscores",
        )

    network = resolve_network(topology, seed)
    if memory_bytes is None:
        memory_bytes = with_packets(
            BASE_MEMORY_BYTES + HOST_MEMORY_BYTES * len(network.hosts),
            windows_bytes(network),
            machine_memory(),
        )

    require_deployment()
    check_guest(ensure_kernel(progress.building), clock, memory_bytes)
    progress.stage("boot")
    plan = DeploymentPlan(
        name=name,
        network=network,
        clock=clock,
        seed=seed,
        cpu=_next_cpu(),
        created_s=time.time(),
        guest_memory_bytes=memory_bytes,
    )

    with HeldSignals() as signals:
        try:
            deployment, alive = _reserve(name)
            try:
                with signals.raised():
                    _start(deployment, plan, topology.to_yaml(), alive)
            except BaseException:
                alive.close()
                destroy(deployment)  # which no second signal interrupts
                raise
        except OSError as error:
            doing = f"{name} could not be deployed"
            raise write_failure(error, doing, "nothing was left behind") from error

    return deployment


def _start(deployment: Deployment, plan: DeploymentPlan, spec: str, alive: BinaryIO) -> None:
    """Start the keeper, pass on the lock `alive`, and wait until the network is ready.

    Args:
        deployment: the new deployment.
        plan: the plan of the deployment.
        spec: the topology file.
        alive: the locked file that the keeper inherits.

    Raises:
        MachineError: the keeper could not write a file, or a requirement is missing.
        RunError: the network could not be built.
    """
    with _first_lease(deployment):
        with alive:
            _start_keeper(deployment, plan, spec, alive.fileno())
        state = deployment.state
        while state == "starting":
            time.sleep(POLL_S)
            state = deployment.state

    if state != "running":
        message = f"{deployment.name} could not be deployed: {deployment.why_ended()}"
        exit_status = _keepers[deployment.path].wait(LONGEST_END_S)
        if exit_status == MachineError.exit_status:
            raise MachineError(message)
        raise RunError(message)


def _reserve(name: str) -> tuple[Deployment, BinaryIO]:
    """Create the folder of a new deployment.

    Returns:
        The deployment, and its file `alive`, locked as long as any process has the file open.
    """
    deployment = Deployment(deployments_folder() / name)

    with _registry_locked():
        try:
            deployment.path.mkdir()
        except FileExistsError:
            raise InputError(
                f"a deployment {name} already exists ({deployment.state})",
                place=Place("--name"),
                remedy=f"choose another name with --name, or run: testbed topo destroy {name}",
            ) from None
        try:
            alive = claim(deployment.alive, wait=True)  # others look whether it is locked
        except BaseException:
            shutil.rmtree(deployment.path, ignore_errors=True)
            raise

    return deployment, alive


@contextmanager
def _first_lease(deployment: Deployment) -> Iterator[None]:
    """Hold the first lease; the keeper gives up if the lease ends before the network is ready."""
    os.mkfifo(deployment.lease)
    lease = os.open(deployment.lease, os.O_RDWR)
    try:
        os.write(lease, b"\n")
        yield
    finally:
        os.close(lease)


def _start_keeper(deployment: Deployment, plan: DeploymentPlan, spec: str, lock: int) -> None:
    deployment.requests.mkdir()
    deployment.raw.mkdir()
    deployment.write_plan(plan)
    deployment.spec.write_text(spec)

    with deployment.log.open("wb") as log:
        _keepers[deployment.path] = subprocess.Popen(
            [sys.executable, "-m", KEEPER, str(deployment.path)],
            pass_fds=[lock],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def destroy(deployment: Deployment) -> None:
    """End a deployment, unless already ended, and remove all of its files."""
    with _registry_locked():
        for number in (signal.SIGTERM, signal.SIGKILL):
            _end_keeper(deployment, number)
        child = _keepers.pop(deployment.path, None)
        if child is not None:
            child.wait(LONGEST_END_S)
        shutil.rmtree(deployment.path, ignore_errors=True)
    reap()
    # After a restart of the machine another process may have the keeper's process id.
    forget(deployment.path)


def _end_keeper(deployment: Deployment, number: int) -> None:
    """Send a signal to the keeper, if alive, and wait for its end up to a time limit.

    A new keeper may not have written its process id yet.
    """
    deadline = time.monotonic() + LONGEST_END_S
    signalled = False
    while is_claimed(deployment.alive) and time.monotonic() < deadline:
        keeper = deployment.read_pids().keeper
        if keeper is not None and not signalled:
            with suppress(ProcessLookupError):
                os.kill(keeper, number)
            signalled = True
        time.sleep(POLL_S)


def deployments_folder() -> Path:
    """Return the folder of all deployments of this user."""
    folder = cache_dir() / "deployments"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _registry_locked() -> Iterator[None]:
    """Hold the lock that serializes the creation and removal of deployments."""
    lock_file = cache_dir() / "deployments.lock"
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _next_cpu() -> int:
    """Return a CPU for a new deployment, round-robin from the lowest; runs start at the highest."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[len(deployments()) % len(cpus)]
