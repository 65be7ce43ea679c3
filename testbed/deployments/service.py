"""Make, find and destroy the deployments of this user."""

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
from typing import TextIO

from testbed.core.errors import InputError, Place, RunError
from testbed.core.leftovers import forget
from testbed.core.paths import cache_dir
from testbed.deployments.folder import Deployment, DeploymentPlan, is_locked
from testbed.execution.cleanup import reap
from testbed.execution.requirements import require_deployment
from testbed.execution.supervise import Progress
from testbed.guest.boot import check_guest
from testbed.guest.kernel import ensure_kernel
from testbed.plan.model import Clock
from testbed.plan.resolve import resolve_network
from testbed.spec.base import suggest
from testbed.spec.topology import Topology

# Memory of a guest by default; the machine gives it as it is used.
BASE_MEMORY_BYTES = 2**30
HOST_MEMORY_BYTES = 16 * 2**20
LONGEST_END_S = 10.0  # for a keeper to end its guest
POLL_S = 0.02
# The keepers that are children of this process, which have to be waited for, by folder.
_keepers: dict[Path, subprocess.Popen[bytes]] = {}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def deployments() -> list[Deployment]:
    """Give all deployments by name, ended ones too."""
    paths = sorted(_parent_folder().iterdir())
    return [Deployment(path) for path in paths if path.is_dir()]


def find(name: str | None, *, running: bool = True) -> Deployment:
    """Find a deployment.

    Args:
        name: of the deployment; None: the only one.
        running: whether the deployment has to run.

    Raises:
        InputError: there is none, or several, or the deployment does not run.
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
    """Build the network of a topology in a guest that stays; returns when the network stands.

    If that is interrupted or fails, nothing stays.

    Args:
        name: of the deployment.
        topology: the topology.
        clock: the guest's clock.
        seed: of random choices in the network.
        memory_bytes: of the guest; None: from the number of hosts.
        progress: shows how the deployment makes progress.

    Raises:
        InputError: the name is taken, or cannot be a name.
        MachineError: there is no kernel, or it has no virtual clock, or too little memory; or a
            package or program is missing.
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
        memory_bytes = BASE_MEMORY_BYTES + HOST_MEMORY_BYTES * len(network.hosts)

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

    deployment, alive = _reserve(name)
    try:
        _start(deployment, plan, topology.to_yaml(), alive)
    except BaseException:
        alive.close()
        destroy(deployment)
        raise

    return deployment


def _start(deployment: Deployment, plan: DeploymentPlan, spec: str, alive: TextIO) -> None:
    """Start the keeper, hand the lock `alive` over to it, and wait until the network stands.

    Raises:
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
        reason = deployment.why_ended()
        raise RunError(f"{deployment.name} could not be deployed: {reason}")


def _reserve(name: str) -> tuple[Deployment, TextIO]:
    """Make the folder of a new deployment.

    Returns:
        The deployment, and its file `alive`, locked as long as any process has it open.
    """
    deployment = Deployment(_parent_folder() / name)

    with _registry_locked():
        try:
            deployment.path.mkdir()
        except FileExistsError:
            raise InputError(
                f"a deployment {name} already exists ({deployment.state})",
                place=Place("--name"),
                remedy=f"choose another name with --name, or run: testbed topo destroy {name}",
            ) from None
        alive = deployment.alive.open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)

    return deployment, alive


@contextmanager
def _first_lease(deployment: Deployment) -> Iterator[None]:
    """Hold a lease from the beginning; the keeper gives up if it ends before the network stands."""
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
            [sys.executable, "-m", "testbed.deployments.keeper", str(deployment.path)],
            pass_fds=[lock],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def destroy(deployment: Deployment) -> None:
    """End a deployment, if it has not ended, and remove everything that is left of it."""
    with _registry_locked():
        for number in (signal.SIGTERM, signal.SIGKILL):
            _end_keeper(deployment, number)
        child = _keepers.pop(deployment.path, None)
        if child is not None:
            child.wait(LONGEST_END_S)
        shutil.rmtree(deployment.path, ignore_errors=True)
    reap()
    # After a restart of the machine another process may have the keeper's number.
    forget(deployment.path)


def _end_keeper(deployment: Deployment, number: int) -> None:
    """Send a signal to the keeper, if it lives, and wait for its end for some time.

    A new keeper has yet to write its process number.
    """
    deadline = time.monotonic() + LONGEST_END_S
    signalled = False
    while is_locked(deployment.alive) and time.monotonic() < deadline:
        keeper = deployment.read_pids().keeper
        if keeper is not None and not signalled:
            with suppress(ProcessLookupError):
                os.kill(keeper, number)
            signalled = True
        time.sleep(POLL_S)


def _parent_folder() -> Path:
    folder = cache_dir() / "deployments"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _registry_locked() -> Iterator[None]:
    """Let only one process at a time make or remove deployments."""
    lock_file = cache_dir() / "deployments.lock"
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _next_cpu() -> int:
    """Choose another CPU for each deployment, from the lowest on; runs take the highest first."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[len(deployments()) % len(cpus)]
