"""Carry out the points of a sweep on a Ray cluster; the only module that imports ray.

Each node receives, once, the project's code, the workloads and the guest kernel as the working
folder of Ray's runtime environment. For each point the node receives the plan and sends back the
run folder as a compressed tar. Neither root nor a shared file system is needed. A node needs the
same versions of the Python packages, and the Debian packages that runs use (scripts/packages,
section runtime).
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import testbed
from testbed.core.errors import MachineError
from testbed.core.leftovers import temporary_folder
from testbed.core.paths import cache_dir
from testbed.core.units import format_size
from testbed.execution.cleanup import reap
from testbed.execution.guest_backend import guest_kernel_version
from testbed.execution.versions import versions
from testbed.guest.kernel import ensure_kernel
from testbed.sweep.folder import SweepDir
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint
from testbed.sweep.run_point import Limits, carry_out
from testbed.sweep.scheduler import Attempt, Finished

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
except ImportError as error:
    raise MachineError(
        "Ray is not installed\n  run `pip install --editable '.[ray]'` in the folder of the project"
    ) from error

SHIPPED = ("testbed", "workloads", "topologies")  # folders of the project that a run needs
KERNEL = "guest-kernel"
# For a cluster started for the sweep; the run folder of a point takes a few MB.
OBJECT_STORE_BYTES = 200 * 2**20
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
        code = self._connection.enter_context(_packed_code(kernel.path))
        self._connection.enter_context(_connected(self._address, code))
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


@contextmanager
def _packed_code(kernel: Path) -> Iterator[Path]:
    """Yield a temporary folder with everything that is shipped to a node."""
    project = Path(testbed.__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="testbed-ray-") as scratch:
        code = Path(scratch)
        ignored = shutil.ignore_patterns("__pycache__")
        for name in SHIPPED:
            shutil.copytree(project / name, code / name, ignore=ignored)
        shutil.copy(kernel, code / KERNEL)
        yield code


@contextmanager
def _connected(address: str, code: Path) -> Iterator[None]:
    """Connect to a cluster within the block.

    Args:
        address: Address of the cluster; ``local`` starts one on this machine only.
        code: The folder to ship to each node.

    Raises:
        MachineError: The cluster cannot be reached.
    """
    new_cluster: dict[str, Any] = {}
    if address == "local":
        new_cluster = {
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "num_cpus": len(os.sched_getaffinity(0)),
        }

    try:
        ray.init(
            address,
            runtime_env={"working_dir": str(code)},
            logging_level=logging.ERROR,
            log_to_driver=False,
            **new_cluster,
        )
    except Exception as error:  # of a node that starts slowly: a plain Exception
        reason = str(error).partition("\n")[0] or type(error).__name__
        remedy = "start one with `ray start --head`, or use --ray local"
        if address == "local":
            remedy = "try again when the machine is less busy"
        raise MachineError(
            f"cannot use the Ray cluster {address!r}: {reason}\n  {remedy}"
        ) from error

    try:
        yield
    finally:
        ray.shutdown()


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
    code = Path(testbed.__file__).resolve().parent.parent
    kernel = code / KERNEL
    kernel.chmod(0o755)
    # Nodes may share a home folder, but guests and reserved CPUs belong to one node.
    cache = Path(tempfile.gettempdir(), f"testbed-{os.getuid()}")
    os.environ["TESTBED_KERNEL"] = str(kernel)
    os.environ["TESTBED_CACHE"] = str(cache)
    reap()
    kernel_version = guest_kernel_version(ensure_kernel())
    mismatch = _version_mismatch(sweep_versions, versions(kernel_version))

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


def _version_mismatch(wanted: Mapping[str, str], present: Mapping[str, str]) -> str:
    """Return a description of versions on this node that affect results; empty if none."""
    differences: list[str] = []
    for name, version in wanted.items():
        present_version = present.get(name)
        if present_version != version:
            differences.append(f"{name} {present_version} instead of {version}")
    if not differences:
        return ""
    node = socket.gethostname()
    return f"the node {node} has {', '.join(differences)}; install the same version there"


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
