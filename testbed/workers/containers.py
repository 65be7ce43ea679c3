"""Isolation ``container``: one Docker container per host; the ranks of the host are its processes.

The container has no network of Docker's: the testbed moves one end of a virtual link into its
namespace. The daemon is one of our own, started for the run, and ends with it. Without an image of
the user's, the container sees the machine's own userland, read-only.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException

from testbed.core.errors import RunError, WorkerError
from testbed.plan.model import Plan, Rank, Workers
from testbed.runfolder.folder import RunDir
from testbed.workers import cgroups
from testbed.workers.fleet import ENVIRONMENT, Fleet, send_orders
from testbed.workers.host_files import write_names
from testbed.workers.zygote import Order
from testbed.workers.zygote_warm import WarmParent, warm_parent

IMAGE = "testbed-userland"
USERLAND = (
    "bin",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "opt",
    "sbin",
    "usr",
)  # and the interpreter and this project
DAEMON_START_S = 60
# Go's collector spins beside the program, which has one CPU here: let it run only when memory is
# short.
GO_ENVIRONMENT = {"GOGC": "off", "GOMEMLIMIT": "300MiB"}
LABEL = "testbed.execution.inside"
PATIENCE = Path("/sys/module/time/parameters/patience")  # of the guest's kernel, in slices of 20 ms
DESCRIBED = (
    "Memory",
    "CpuShares",
    "NanoCpus",
    "PidsLimit",
    "NetworkMode",
    "CapAdd",
    "CapDrop",
    "SecurityOpt",
    "Privileged",
    "ReadonlyRootfs",
    "IpcMode",
)


class Containers(Fleet):
    """The hosts of a run as containers of a Docker daemon of its own."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        super().__init__(run, plan)
        self._containers: dict[str, Any] = {}
        self._pids: dict[str, int] = {}

    def __enter__(self) -> Containers:
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="testbed-", dir="/run"))
            self._folder.chmod(0o755)
            stack.callback(_remove_with_mounts, self._folder)
            self._names = write_names(self._folder, self.plan.network)
            cgroups.delegate_root()
            self._group = stack.enter_context(cgroups.group(self._folder.name))
            self._parent: WarmParent | None = None
            if self.plan.workers.image is None:
                self._parent = stack.enter_context(warm_parent(self.run, self._folder))
            log = self.run.logs / "dockerd.log"
            daemon = _start_daemon(self._folder, self._group, log)
            stack.callback(daemon.wait)
            stack.callback(daemon.kill)
            try:
                with _impatient_kernel():
                    self._start_containers(_connect(daemon, self._folder, log))
            except DockerException as error:
                raise RunError(f"Docker: {error}") from error
            # The daemon's timers would end up between those of the ranks, at another place in each
            # run.
            (self._group / "daemon" / "cgroup.freeze").write_text("1")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        # Daemon, shims and containers end with their control group: an orderly stop of ten
        # containers takes half a minute in the guest.
        self._stack.close()

    def _start_containers(self, client: Any) -> None:
        image = _import_image(client, self.plan.workers.image)
        for host in self.hosts:
            self._containers[host] = self._run_container(client, host, image)
        described = {
            host: client.api.inspect_container(found.id) for host, found in self._containers.items()
        }
        self._pids = {host: container["State"]["Pid"] for host, container in described.items()}
        self.run.write_json(
            self.run.containers, {host: _description(found) for host, found in described.items()}
        )

    @property
    def namespaces(self) -> dict[str, int]:
        """Each host's container has a network namespace, with nothing but loopback in it."""
        return dict(self._pids)

    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        del netns  # the containers are the namespaces
        if self._parent is not None:
            self._parent.start(
                [self._order(rank) for rank in self.plan.workers.processes if rank.host in hosts]
            )
            return
        for host in hosts:
            pid = self._pids[host]
            orders = [Order(rank.rank, rank.host) for rank in self.processes_of(host)]
            try:
                send_orders(self._fifo(host), orders, Path("/proc", str(pid), "exe"))
            except WorkerError as error:
                raise WorkerError(f"{error}: {self._last_words(host)}") from None

    def _kill(self, host: str) -> None:
        cgroups.kill(
            self._cgroup(host), but=self._pids[host]
        )  # its namespaces end with the container's first process

    def _order(self, rank: Rank) -> Order:
        owner = self.run.path.stat()
        return Order(
            rank.rank,
            rank.host,
            cgroup=str(self._cgroup(rank.host)),
            container_pid=self._pids[rank.host],
            user=(owner.st_uid, owner.st_gid),
        )

    def lost(self) -> list[str]:
        """Hosts whose container has ended; all, if the common parent has."""
        if self._parent is not None and self._parent.ended():
            return list(self._pids)
        return [
            host for host, pid in self._pids.items() if not Path("/proc", str(pid), "exe").exists()
        ]

    def memory_kills(self, host: str) -> int:
        """How many processes of `host` the kernel ended for want of memory."""
        return cgroups.memory_kills(self._cgroup(host))

    def _cgroup(self, host: str) -> Path:
        return self._group / "hosts" / str(self._containers[host].id)

    def _fifo(self, host: str) -> Path:
        return self._folder / host / "orders"

    def _last_words(self, host: str) -> str:
        log = self.run.logs / f"container-{host}.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "it left no output"

    def _run_container(self, client: Any, host: str, image: str) -> Any:
        owner = self.run.path.stat()
        workers = self.plan.workers
        command, binds = ["sleep", "infinity"], {**_readable(workers), str(self.run.path): "rw"}
        if workers.image is not None:
            self._fifo(host).parent.mkdir()
            os.mkfifo(self._fifo(host))
            command = _parent_command(self.run, self._fifo(host), host)
            binds[str(self._fifo(host).parent)] = "ro"
        limits: dict[str, Any] = {"cpu_shares": max(2, int(workers.cpus * 1024))}
        if self.plan.clock == "real":
            # A quota counts the host's CPU time: on the virtual clock, where computation takes
            # none, it would add time.
            limits = {"nano_cpus": int(workers.cpus * 1e9)}
        volumes = {path: {"bind": path, "mode": mode} for path, mode in binds.items()}
        volumes |= {
            str(file): {"bind": str(place), "mode": "ro"} for file, place in self._names.items()
        }
        return client.containers.run(
            image,
            command,
            detach=True,
            name=f"{self._folder.name}-{host}",
            hostname=host,
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": "mode=1777", "/run": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user=f"{owner.st_uid}:{owner.st_gid}",
            mem_limit=workers.memory_bytes,
            pids_limit=cgroups.PIDS_MAX,
            ipc_mode="private",
            volumes=volumes,
            environment={**_environment(), **ENVIRONMENT},
            labels={LABEL: self._folder.name},
            log_config=docker.types.LogConfig(type="none"),
            **limits,
        )


def _description(container: dict[str, Any]) -> dict[str, Any]:
    """Of what Docker tells about a container, the part that says what it is and what it may do."""
    about = {name: container[name] for name in ("Id", "Name", "Image", "Path", "Args")}
    return about | {name: container["HostConfig"][name] for name in DESCRIBED}


@contextmanager
def _impatient_kernel() -> Iterator[None]:
    """The guest's kernel pre-empts often: Docker's programs spin, and only another thread can end
    that.
    """
    if not os.access(PATIENCE, os.W_OK):  # another kernel, or a run on this very machine's
        yield
        return
    before = PATIENCE.read_text()
    PATIENCE.write_text("0")
    try:
        yield
    finally:
        PATIENCE.write_text(before)


def _parent_command(run: RunDir, fifo: Path, host: str) -> list[str]:
    log = run.logs / f"container-{host}.log"
    parent = ["python3", "-m", "testbed.workers.zygote", str(run.path), str(fifo)]
    return ["/bin/sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", str(log), *parent]


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
    }


def _readable(workers: Workers) -> dict[str, str]:
    """What a container may read: this project, what the plan names, and without an image the
    machine's userland.
    """
    project = Path(__file__).parent.parent.parent
    named = [Path(folder) for folder in workers.readable]
    if workers.image is not None:
        return {str(path): "ro" for path in (project, *named)}
    paths = [
        Path("/", name)
        for name in USERLAND
        if Path("/", name).is_dir() and not Path("/", name).is_symlink()
    ]
    for path in (Path(sys.prefix), Path(sys.base_prefix), project, *named):
        if not any(path.is_relative_to(other) for other in paths):
            paths.append(path)
    return {str(path): "ro" for path in paths}


def _start_daemon(folder: Path, group: Path, log: Path) -> subprocess.Popen[bytes]:
    (group / "daemon").mkdir()
    command = [
        "dockerd",
        "--data-root",
        str(folder / "data"),
        "--exec-root",
        str(folder / "exec"),
        "--pidfile",
        str(folder / "pid"),
        "--host",
        f"unix://{folder}/socket",
        "--storage-driver",
        "overlay2",
        "--exec-opt",
        "native.cgroupdriver=cgroupfs",
        "--cgroup-parent",
        f"/{group.name}/hosts",
        "--bridge",
        "none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    if crun := shutil.which("crun"):  # starts a container several times as fast as runc
        command += ["--add-runtime", f"crun={crun}", "--default-runtime", "crun"]
    join = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(group / "daemon" / "cgroup.procs")]
    with log.open("w") as out:
        return subprocess.Popen(
            [*join, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **GO_ENVIRONMENT},
        )


def _remove_with_mounts(folder: Path) -> None:
    """Remove the daemon's folder, with what it mounted there."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in sorted(
        (place for place in mounts if place.startswith(f"{folder}/")), reverse=True
    ):
        subprocess.run(["umount", "--lazy", place], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _connect(daemon: subprocess.Popen[bytes], folder: Path, log: Path) -> Any:
    deadline = time.monotonic() + DAEMON_START_S
    while not (folder / "socket").exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RunError(
                f"the Docker daemon did not start:\n{log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.01)
    return docker.DockerClient(base_url=f"unix://{folder}/socket", version="1.41", timeout=600)


def _import_image(client: Any, image: str | None) -> str:
    """Name of the image to run: the machine's userland, one that ``docker save`` wrote, or a root
    file system.
    """
    if image is None:
        client.api.import_image_from_data(_skeleton(), repository=IMAGE, tag="latest")
        return f"{IMAGE}:latest"
    with tarfile.open(image) as archive:
        saved = "manifest.json" in archive.getnames()
    if not saved:
        client.api.import_image_from_file(image, repository="testbed-user", tag="latest")
        return "testbed-user:latest"
    with Path(image).open("rb") as file:
        return str(client.images.load(file)[0].id)


def _skeleton() -> bytes:
    """A root file system of empty folders, and of links as the machine has them, to mount its
    userland on.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(Path("/").iterdir()):
            if path.is_symlink() or path.is_dir():
                entry = tarfile.TarInfo(path.name)
                entry.type = tarfile.SYMTYPE if path.is_symlink() else tarfile.DIRTYPE
                entry.linkname = str(path.readlink()) if path.is_symlink() else ""
                entry.mode = 0o1777 if path.name == "tmp" else 0o755
                archive.addfile(entry)
    return buffer.getvalue()
