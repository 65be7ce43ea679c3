"""Connect to a Ray cluster, and ship the project's code to its nodes.

Each node receives, once, the project's code, the workloads and the guest kernel as the working
folder of Ray's runtime environment. A node needs the same versions of the Python packages, and the
Debian packages that runs use (scripts/packages, section runtime).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import testbed
from testbed.core.errors import MachineError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
except ImportError as error:
    raise MachineError(
        "Ray is not installed\n  run `pip install --editable '.[ray]'` in the folder of the project"
    ) from error

__all__ = [
    "KERNEL",
    "LOCAL",
    "connected",
    "packed_code",
    "ray",
    "shipped_code",
    "use_shipped_kernel",
]

SHIPPED = ("testbed", "workloads", "topologies")  # folders of the project that a run needs
KERNEL = "guest-kernel"
LOCAL = "local"  # address of a cluster that is started on this machine for one command
REACH_S = 10.0
# For a cluster started for the command; the run folder of a point takes a few MB.
OBJECT_STORE_BYTES = 200 * 2**20


@contextmanager
def packed_code(kernel: Path, others: Mapping[str, Path] | None = None) -> Iterator[Path]:
    """Yield a temporary folder with everything that is shipped to a node.

    Args:
        kernel: the guest kernel.
        others: further files, by their name in the folder.
    """
    project = Path(testbed.__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="testbed-ray-") as scratch:
        code = Path(scratch)
        ignored = shutil.ignore_patterns("__pycache__")
        for name in SHIPPED:
            shutil.copytree(project / name, code / name, ignore=ignored)
        shutil.copy(kernel, code / KERNEL)
        for name, path in (others or {}).items():
            shutil.copy(path, code / name)
        yield code


@contextmanager
def connected(address: str, code: Path) -> Iterator[None]:
    """Connect to a cluster within the block.

    Args:
        address: Address of the cluster; ``local`` starts one on this machine only.
        code: The folder to ship to each node.

    Raises:
        MachineError: The cluster cannot be reached.
    """
    new_cluster: dict[str, Any] = {}
    if address == LOCAL:
        new_cluster = {
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "num_cpus": len(os.sched_getaffinity(0)),
        }

    handler = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(
            address,
            runtime_env={"working_dir": str(code)},
            logging_level=logging.ERROR,
            log_to_driver=False,
            **new_cluster,
        )
    except Exception as error:  # of a node that starts slowly: a plain Exception
        reason = str(error).partition("\n")[0] or type(error).__name__
        remedy = "start one with `ray start --head`; for sweeps, --ray local starts one"
        if address == LOCAL:
            remedy = "try again when the machine is less busy"
        raise MachineError(
            f"cannot use the Ray cluster {address!r}: {reason}\n  {remedy}"
        ) from error

    signal.signal(signal.SIGTERM, handler)  # Ray replaces it
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect to an address with a port; Ray itself tries that for ten minutes.

    Raises:
        OSError: nobody listens there.
    """
    host, _colon, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()


def shipped_code() -> Path:
    """Return the folder that was shipped to this node, in a task or an actor."""
    return Path(testbed.__file__).resolve().parent.parent


def use_shipped_kernel() -> None:
    """Let this process of a node use the shipped kernel, and a cache that belongs to the node."""
    kernel = shipped_code() / KERNEL
    kernel.chmod(0o755)
    # Nodes may share a home folder, but guests and reserved CPUs belong to one node.
    cache = Path(tempfile.gettempdir(), f"testbed-{os.getuid()}")
    os.environ["TESTBED_KERNEL"] = str(kernel)
    os.environ["TESTBED_CACHE"] = str(cache)
