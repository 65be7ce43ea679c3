"""Make, find and end the deployments of this user; `testbed.deployments.folder` has what is known
of one.
"""

from __future__ import annotations

import fcntl
import json
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
from typing import Any, TextIO

from testbed.core.errors import InputError, Place, RunError
from testbed.core.leftovers import forget
from testbed.core.paths import cache_dir
from testbed.deployments.folder import Deployment, LivePlan, is_locked
from testbed.execution.cleanup import reap
from testbed.execution.supervise import Progress
from testbed.guest.boot import EPOCH_NS, check_guest
from testbed.guest.kernel import ensure_kernel
from testbed.plan.model import Clock, Network
from testbed.plan.resolve import resolve_network
from testbed.spec.base import suggest
from testbed.spec.topology import Topology

BASE_MEMORY, HOST_MEMORY = 2**30, 16 * 2**20  # bytes of the guest, taken as they are used
LONGEST_END_S = 10.0  # for a keeper to end its guest
POLL_S = 0.02
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def deployments() -> list[Deployment]:
    """All deployments by name, ended ones too."""
    return [Deployment(path) for path in sorted(_folder().iterdir()) if path.is_dir()]


def find(name: str | None, *, running: bool = True) -> Deployment:
    """The deployment called `name`; without a name, the only one.

    Raises:
        InputError: there is none, or several, or (if it has to be `running`) it is not.
    """
    known = {deployment.name: deployment for deployment in deployments()}
    if not known:
        raise InputError(
            "nothing is deployed", remedy="testbed topo deploy TOPOLOGY builds a network that stays"
        )
    if name is None:
        if len(known) > 1:
            raise InputError(
                f"several networks are deployed: {', '.join(known)}", remedy="name one with -t NAME"
            )
        name = next(iter(known))
    if name not in known:
        raise InputError(
            f"there is no deployment {name!r}", remedy=suggest(name, known, "deployed")
        )
    found = known[name]
    if running and found.state != "running":
        raise InputError(
            f"the deployment {name} is not running, it is {found.state}: {_reason(found)}",
            remedy=f"testbed topo destroy {name} removes what is left",
        )
    return found


def _reason(deployment: Deployment) -> str:
    return (
        "its network is being built"
        if deployment.state == "starting"
        else deployment.why_ended().splitlines()[0]
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
    """Build the network of `topology` in a guest that stays; returns when it stands.

    If it is interrupted or fails, nothing stays.

    Raises:
        InputError: the name is taken, or is none.
        MachineError: there is no kernel, or it has no virtual clock, or too little memory.
        RunError: the network could not be built.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be the name of a deployment",
            place=Place("--name"),
            remedy="use letters, digits, dots, hyphens and underscores",
        )
    network = resolve_network(topology, seed)
    memory = memory_bytes or BASE_MEMORY + HOST_MEMORY * len(network.hosts)
    check_guest(ensure_kernel(progress.building), clock, memory)
    progress.stage("boot")
    plan = LivePlan(
        name=name,
        network=network,
        clock=clock,
        seed=seed,
        cpu=_cpu(),
        created_s=time.time(),
        guest_memory_bytes=memory,
    )
    deployment, alive = _reserve(name)
    try:
        with _first_lease(deployment):
            with alive:
                _start_keeper(deployment, plan, topology.to_yaml(), alive.fileno())
            while (state := deployment.state) == "starting":
                time.sleep(POLL_S)
        if state != "running":
            raise RunError(f"{name} could not be deployed: {deployment.why_ended()}")
    except BaseException:
        alive.close()
        destroy(deployment)
        raise
    return deployment


def _reserve(name: str) -> tuple[Deployment, TextIO]:
    """A folder for a new deployment, and its lock, which it has as long as any process has this
    file open.
    """
    deployment = Deployment(_folder() / name)
    with _registry():
        try:
            deployment.path.mkdir()
        except FileExistsError:
            raise InputError(
                f"the name {name} is taken: that deployment is {deployment.state}",
                place=Place("--name"),
                remedy=f"give another with --name, or end it with testbed topo destroy {name}",
            ) from None
        alive = deployment.alive.open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    return deployment, alive


@contextmanager
def _first_lease(deployment: Deployment) -> Iterator[None]:
    """A lease from the beginning: the keeper gives up if it ends before the network stands."""
    os.mkfifo(deployment.lease)
    lease = os.open(deployment.lease, os.O_RDWR)
    try:
        os.write(lease, b"\n")
        yield
    finally:
        os.close(lease)


def _start_keeper(deployment: Deployment, plan: LivePlan, spec: str, lock: int) -> None:
    for folder in ("requests", "raw"):
        (deployment.path / folder).mkdir()
    deployment.plan.write_text(plan.model_dump_json(indent=1) + "\n")
    deployment.spec.write_text(spec)
    with deployment.log.open("wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "testbed.deployments.keeper", str(deployment.path)],
            pass_fds=[lock],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def destroy(deployment: Deployment) -> None:
    """End it, if it has not ended, and remove all that is left of it."""
    with _registry():
        for number in (signal.SIGTERM, signal.SIGKILL):
            _end_keeper(deployment, number)
        shutil.rmtree(deployment.path, ignore_errors=True)
    reap()
    # After a restart of the machine another process may have the keeper's number.
    forget(deployment.path)


def overview(deployment: Deployment) -> dict[str, Any]:
    """What is known of a deployment: state, clocks, process, hosts with addresses, links with their
    settings now.
    """
    state = deployment.state
    lives = state in ("running", "starting")
    try:
        plan = deployment.read_plan()
    except (
        OSError,
        ValueError,
    ):  # of another version of the testbed, or just being made or removed
        plan = None
    last = deployment.last_time_ns if plan and plan.clock == "virtual" else None
    hosts = plan.network.hosts if plan else ()
    return {
        "name": deployment.name,
        "topology": plan and plan.network.name,
        "state": state,
        "reason": None if lives else deployment.why_ended(),
        "clock": plan and plan.clock,
        "seed": plan and plan.seed,
        "uptime_s": round(time.time() - plan.created_s, 1) if plan and lives else None,
        "virtual_s": None if last is None else (last - EPOCH_NS) / 1e9,
        "pid": _pids(deployment).get("guest") if lives else None,
        "cpu": plan and plan.cpu,
        "folder": str(deployment.path),
        "hosts": [
            {"name": host.name, "datacenter": host.dc, "address": str(host.address.ip)}
            for host in hosts
        ],
        "links": _links(plan.network) if plan else [],
    }


def _pids(deployment: Deployment) -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(deployment.pids.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _links(network: Network) -> list[dict[str, Any]]:
    return [
        {
            "link": link.key,
            "from": way.source,
            "to": way.target,
            "address": str(way.address.ip),
            "rate_bps": way.bottleneck.rate_bps,
            "queue_packets": way.bottleneck.queue_packets,
            "delay_ms": way.fibre.delay_ns / 1e6,
            "jitter_ms": way.fibre.jitter_ns / 1e6,
            "loss": way.fibre.loss.p,
        }
        for link in network.wan
        for way in link.directions
    ]


def _folder() -> Path:
    folder = cache_dir() / "deployments"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _registry() -> Iterator[None]:
    """Only one process at a time makes or removes deployments."""
    with (cache_dir() / "deployments.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_keeper(deployment: Deployment, number: int) -> None:
    """Signal the keeper, if it lives, and wait for its end for some time. A new one has yet to say
    its pid.
    """
    deadline = time.monotonic() + LONGEST_END_S
    told = False
    while is_locked(deployment.alive) and time.monotonic() < deadline:
        keeper = _pids(deployment).get("keeper")
        if keeper is not None and not told:
            with suppress(ProcessLookupError):
                os.kill(keeper, number)
            told = True
        time.sleep(POLL_S)


def _cpu() -> int:
    """Another one for each deployment, from the lowest on; runs reserve theirs from the highest
    on.
    """
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[len(deployments()) % len(cpus)]
