"""Carry out the points of a sweep on a Ray cluster.

For each point a node, which has the shipped code (`testbed.execution.ray_cluster`), receives the
plan and sends back the run folder as a compressed tar. Neither root nor a shared file system is
needed.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import MachineError
from testbed.core.leftovers import temporary_folder
from testbed.core.paths import cache_dir
from testbed.core.units import format_size
from testbed.execution.cleanup import reap
from testbed.execution.guest_backend import guest_kernel_version
from testbed.execution.ray_cluster import connected, packed_code, ray, use_shipped_kernel
from testbed.execution.versions import version_mismatch, versions
from testbed.guest.kernel import ensure_kernel
from testbed.sweep.folder import SweepDir
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint
from testbed.sweep.run_point import Limits, carry_out
from testbed.sweep.scheduler import Attempt, Finished

AHEAD = 2  # points submitted to Ray per CPU of the cluster, so that no CPU idles


class RayExecutor:
    """An `Executor` of a Ray cluster."""

    def __init__(self, folder: SweepDir, address: str, limits: Limits) -> None:
        """Create an executor; `start` connects to the cluster.

        Args:
            folder: The sweep folder on this machine.
            address: Address of the cluster; ``auto`` finds one, ``local`` starts one here.
            limits: Time limits of each point.
        """
        self._folder = folder
        self._address = address
        self._limits = limits
        self._connection = ExitStack()
        self._versions: dict[str, str] = {}
        self._attempts: dict[Any, Attempt] = {}  # by Ray's reference to the result

    def start(self, points: Sequence[PlannedPoint]) -> int:
        """Connect to the cluster.

        Returns:
            The number of points that will run in parallel.

        Raises:
            MachineError: The cluster cannot be reached, or its nodes are too small for the points.
        """
        kernel = ensure_kernel()
        code = self._connection.enter_context(packed_code(kernel.path))
        self._connection.enter_context(connected(self._address, code))
        self._versions = versions(guest_kernel_version(kernel))
        _check_node_memory(points)
        return _cluster_cpus()

    def has_room(self, point: PlannedPoint) -> bool:
        """Return whether fewer than `AHEAD` points per CPU of the cluster are submitted."""
        return len(self._attempts) < AHEAD * _cluster_cpus()

    def submit(self, attempt: Attempt) -> None:
        """Submit an attempt to Ray."""
        point = attempt.point
        needs = {"memory": point.memory_bytes, "name": point.name}
        task = _run_on_node.options(**needs)
        reference = task.remote(point, self._limits, attempt.number, self._versions)
        self._attempts[reference] = attempt

    def wait(self, timeout_s: float) -> list[Finished]:
        """Return the attempts that have ended; empty after `timeout_s` seconds.

        Raises:
            MachineError: The disk of this machine is full.
        """
        references = list(self._attempts)
        ended, _ = ray.wait(references, num_returns=1, timeout=timeout_s)
        return [self._fetch_result(reference) for reference in ended]

    def release_idle(self) -> None:
        """Do nothing: Ray ends idle workers."""

    def cancel(self) -> None:
        """Kill the workers of all attempts."""
        for reference in self._attempts:
            ray.cancel(reference, force=True)
        self._attempts.clear()

    def close(self) -> None:
        """Disconnect from the cluster; end a cluster that was started for the sweep."""
        self._connection.close()

    def _fetch_result(self, reference: Any) -> Finished:
        attempt = self._attempts.pop(reference)
        point, number = attempt.point, attempt.number
        run_folder = self._folder.running / point.folder

        try:
            result: _NodeResult = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            reason = str(error.cause)
            record = _failure(point, number, reason)
            return Finished(attempt, record, run_folder)
        except ray.exceptions.RayError as error:
            reason = f"the worker was lost ({type(error).__name__})"
            record = _failure(point, number, reason)
            return Finished(attempt, record, run_folder, lost=True)

        with self._folder.full_disk_reported():
            _unpack(result.run_folder_tar, run_folder)

        return Finished(attempt, result.record, run_folder, disk_full=result.disk_full)


@dataclass(frozen=True)
class _NodeResult:
    """Result from a node: outcome of the point, and its run folder as a compressed tar."""

    record: PointRecord
    run_folder_tar: bytes
    disk_full: bool = False


def _failure(point: PlannedPoint, attempt: int, reason: str) -> PointRecord:
    return PointRecord(
        identity=point.identity, name=point.name, state="failed", reason=reason, attempt=attempt
    )


def _cluster_cpus() -> int:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


def _check_node_memory(points: Sequence[PlannedPoint]) -> None:
    """Check that the cluster has a node large enough for every point.

    Raises:
        MachineError: No current node is large enough for the largest point.
    """
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    offers: list[int] = []
    for node in nodes:
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU", 0) >= 1:
            offers.append(int(resources.get("memory", 0)))

    largest = max(points, key=lambda point: point.memory_bytes)
    needed_bytes = largest.memory_bytes
    if offers and max(offers) < needed_bytes:
        raise MachineError(
            f"the point {largest.name} needs {format_size(needed_bytes, 3)} of memory, and the "
            f"largest node of the cluster offers {format_size(max(offers), 3)}\n"
            "  start larger nodes (ray start --memory), or use fewer hosts or smaller tensors"
        )


@ray.remote(num_cpus=1, max_retries=0)
def _run_on_node(
    point: PlannedPoint, limits: Limits, attempt: int, sweep_versions: dict[str, str]
) -> _NodeResult:
    """Run a point on a node, in a temporary folder of the node.

    Args:
        point: The point to run.
        limits: Time limits of the run.
        attempt: Number of the attempt, from 1.
        sweep_versions: Versions on the sweep's machine of everything that affects results, by name.
    """
    use_shipped_kernel()
    reap()
    kernel_version = guest_kernel_version(ensure_kernel())
    mismatch = version_mismatch(sweep_versions, versions(kernel_version))

    with _scratch_folder() as scratch:
        if mismatch:
            record = _failure(point, attempt, mismatch)
            return _NodeResult(record, _pack(scratch))
        result = carry_out(point, scratch, limits, attempt)
        result.folder.mkdir(exist_ok=True)
        archive = _pack(result.folder)
        return _NodeResult(result.record, archive, result.disk_full)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder for one point; `reap` removes folders of killed workers."""
    parent = cache_dir() / "points"
    parent.mkdir(exist_ok=True)
    with temporary_folder("point-", parent) as scratch:
        yield scratch


def _pack(folder: Path) -> bytes:
    archive = io.BytesIO()
    with (
        tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar,
        suppress(FileNotFoundError),
    ):
        tar.add(folder, arcname=".")
    return archive.getvalue()


def _unpack(archive: bytes, folder: Path) -> None:
    """Extract an archive into a new folder.

    Raises:
        OSError: A file cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
