"""Run the points of a sweep on a Ray cluster. The only module that imports ray.

What travels: the project's code, the workloads and the guest kernel, once for each node, as the
working folder of Ray's runtime environment; each point's plan to where it runs; its run folder
back, as a compressed tar. Neither root nor a shared file system is needed. A node needs the Python
packages of the same versions, and the Debian packages that runs use (scripts/packages, section
runtime).

A point whose node or worker is lost is run again elsewhere, and that does not count as one of its
retries.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import testbed
from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.core.units import format_size
from testbed.execution.launch import clean_up_after_killed, versions
from testbed.guest.kernel import ensure_kernel
from testbed.sweep.folder import Record, SweepDir
from testbed.sweep.local_executor import Events, Policy, need_bytes
from testbed.sweep.points import PlannedPoint
from testbed.sweep.run_point import NO_SPACE, Limits, carry_out, disk_full, is_disk_full

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
except ImportError as error:
    raise MachineError(
        "Ray is not installed\n  pip install --editable '.[ray]' in the testbed's folder"
    ) from error

SHIPPED = ("testbed", "workloads", "topologies")  # folders of the project that a run needs
KERNEL = "guest-kernel"
OBJECT_STORE_BYTES = (
    200 * 2**20
)  # of a cluster that is started for the sweep; a point's folder has a few MB
POLL_S = 0.5
AHEAD = 2  # points handed to Ray for each CPU of the cluster, so that no CPU waits
MOST_LOSSES = 5  # of workers or nodes that a point survives


@dataclass
class _Flight:
    point: PlannedPoint
    attempt: int
    losses: int


class RaySweep:
    """Runs points on a cluster until none is left."""

    def __init__(self, folder: SweepDir, address: str, policy: Policy, events: Events) -> None:
        self._folder, self._address, self._policy, self._events = folder, address, policy, events
        self._flights: dict[Any, _Flight] = {}

    def run(self, points: Sequence[PlannedPoint]) -> dict[str, Record]:
        """How each of `points` ended, by identity; those that never began are missing.

        Raises:
            MachineError: there is no such cluster, or the disk here is full.
        """
        kernel = ensure_kernel()
        waiting = deque(_Flight(point, 1, 0) for point in points)
        records: dict[str, Record] = {}
        stopped = False
        with _packed(kernel.path) as code, _connected(self._address, code):
            here = versions(kernel)
            self._check_fits(points)
            try:
                while (waiting and not stopped) or self._flights:
                    while waiting and not stopped and len(self._flights) < self._room():
                        self._submit(waiting.popleft(), here)
                    for flight, record, lost in self._landed():
                        again = lost or (
                            record.state == "failed" and flight.attempt <= self._policy.retries
                        )
                        self._events.ended(flight.point, record, again)
                        if lost:
                            waiting.append(replace(flight, losses=flight.losses + 1))
                        elif again:
                            waiting.append(replace(flight, attempt=flight.attempt + 1))
                        else:
                            records[flight.point.identity] = record
                            stopped |= self._policy.fail_fast and record.state == "failed"
                    self._events.tick()
            finally:
                for reference in self._flights:
                    ray.cancel(reference, force=True)
        return records

    def _room(self) -> int:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return max(1, AHEAD * int(resources.get("CPU", 1)))

    def _check_fits(self, points: Sequence[PlannedPoint]) -> None:
        """Refuse what Ray would wait for without end.

        Raises:
            MachineError: no node that the cluster has now is large enough for the largest point.
        """
        self._events.jobs = self._room() // AHEAD
        largest = max(points, key=need_bytes)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        offers = [
            node["Resources"]
            for node in nodes
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]
        most = max((int(offer.get("memory", 0)) for offer in offers), default=None)
        if most is not None and most < need_bytes(largest):
            raise MachineError(
                f"the point {largest.name} needs {format_size(need_bytes(largest), 3)} of memory, and the largest node "
                f"of the cluster offers {format_size(most, 3)}\n  start nodes with more (ray start --memory), or use "
                "fewer hosts or smaller tensors"
            )

    def _submit(self, flight: _Flight, here: Mapping[str, str]) -> None:
        task = _task.options(memory=need_bytes(flight.point), name=flight.point.name)
        reference = task.remote(flight.point, self._policy.limits, flight.attempt, dict(here))
        self._flights[reference] = flight
        self._events.started(flight.point, flight.attempt)

    def _landed(self) -> Iterator[tuple[_Flight, Record, bool]]:
        """The points that have ended, each with its record, and whether it is to go on
        elsewhere.
        """
        ready, _ = ray.wait(list(self._flights), num_returns=1, timeout=POLL_S)
        for reference in ready:
            flight, lost = self._flights.pop(reference), False
            try:
                record, data = ray.get(reference)
                self._unpack(flight.point, record, data)
            except ray.exceptions.RayTaskError as error:
                record = self._failed(flight, str(error.cause))
            except ray.exceptions.RayError as error:
                lost = flight.losses < MOST_LOSSES
                record = self._failed(flight, f"its worker was lost ({type(error).__name__})")
            yield flight, record, lost

    def _failed(self, flight: _Flight, reason: str) -> Record:
        record = Record(
            flight.point.identity, flight.point.name, "failed", reason, attempt=flight.attempt
        )
        self._folder.settle(self._folder.running / flight.point.folder, record)
        return record

    def _unpack(self, point: PlannedPoint, record: Record, data: bytes) -> None:
        """Put the run folder where it belongs.

        Raises:
            MachineError: the disk is full.
        """
        place = self._folder.running / point.folder
        shutil.rmtree(place, ignore_errors=True)
        try:
            place.mkdir()
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                tar.extractall(place, filter="data")
            self._folder.settle(place, record)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise disk_full(self._folder, len(self._folder.done())) from error
            raise
        if record.state == "failed" and is_disk_full(record.reason):
            raise disk_full(self._folder, len(self._folder.done()))


@contextmanager
def _packed(kernel: Path) -> Iterator[Path]:
    """A folder with all that a node has to be given."""
    project = Path(testbed.__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="testbed-ray-") as scratch:
        for name in SHIPPED:
            shutil.copytree(
                project / name, Path(scratch, name), ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(kernel, Path(scratch, KERNEL))
        yield Path(scratch)


@contextmanager
def _connected(address: str, code: Path) -> Iterator[None]:
    """A connection to the cluster at `address`; ``local`` starts one of this machine alone.

    Raises:
        MachineError: there is none.
    """
    own: dict[str, Any] = {}
    if address == "local":
        own = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        own["num_cpus"] = len(os.sched_getaffinity(0))
    try:
        ray.init(
            address,
            runtime_env={"working_dir": str(code)},
            logging_level=logging.ERROR,
            log_to_driver=False,
            **own,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MachineError(
            f"cannot use the Ray cluster {address!r}: {str(error).splitlines()[0]}\n"
            "  start one with `ray start --head`, or use --ray local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@ray.remote(num_cpus=1, max_retries=0)
def _task(
    point: PlannedPoint, limits: Limits, attempt: int, here: dict[str, str]
) -> tuple[Record, bytes]:
    """Run a point on a node, in a folder of the node's own."""
    kernel = Path(testbed.__file__).resolve().parent.parent / KERNEL
    kernel.chmod(0o755)
    os.environ["TESTBED_KERNEL"] = str(kernel)
    # A home folder may be that of all nodes; guests, and who has which CPU, are of this one.
    os.environ["TESTBED_CACHE"] = str(Path(tempfile.gettempdir(), f"testbed-{os.getuid()}"))
    clean_up_after_killed()
    with _scratch() as scratch:
        problem = _different(here, versions(ensure_kernel()))
        if problem:
            return Record(point.identity, point.name, "failed", problem, attempt=attempt), _tar(
                scratch
            )
        folder, record = carry_out(point, scratch, limits, attempt)
        folder.mkdir(exist_ok=True)
        return record, _tar(folder)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this node for one point; those of workers that were killed are removed."""
    places = cache_dir() / "points"
    places.mkdir(exist_ok=True)
    for left in places.iterdir():
        if not Path("/proc", left.name.partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=places) as scratch:
        yield Path(scratch)


def _different(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What a node has that would give other results; empty if nothing."""
    other = [
        f"{name} {there.get(name)} instead of {what}"
        for name, what in here.items()
        if there.get(name) != what
    ]
    return (
        f"the node {socket.gethostname()} has {', '.join(other)}; install the same there"
        if other
        else ""
    )


def _tar(folder: Path) -> bytes:
    data = io.BytesIO()
    with (
        tarfile.open(fileobj=data, mode="w:gz", compresslevel=1) as tar,
        suppress(FileNotFoundError),
    ):
        tar.add(folder, arcname=".")
    return data.getvalue()
