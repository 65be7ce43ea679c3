"""Isolation ``container``: one Docker container per host, which runs the host's ranks.

Containers do not use Docker's networks: the testbed moves one end of a virtual link into each
container's namespace. A separate Docker daemon starts and ends with the run. Without a user's
image, a container sees the machine's userland, read-only.
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
from testbed.runfolder.files import last_lines, write_json
from testbed.runfolder.folder import RunDir
from testbed.workers import cgroups
from testbed.workers.collector import collecting
from testbed.workers.fleet import ENVIRONMENT, Fleet
from testbed.workers.gpu.device_library import LIBRARIES
from testbed.workers.host_files import write_names
from testbed.workers.orders import Order, send_orders
from testbed.workers.zygote_warm import WarmParent, warm_parent

PROJECT = Path(__file__).parent.parent.parent
IMAGE = "testbed-userland"
USER_IMAGE = "testbed-user"
# A container also sees the interpreter and this project.
USERLAND = ("bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr")
DAEMON_START_S = 60
DOCKER_API = "1.41"
DOCKER_TIMEOUT_S = 600
CPU_SHARES = 1024  # of one CPU
MIN_CPU_SHARES = 2
OUTPUT_TAIL_LINES = 20  # of a log in an error
# Go's collector busy-waits alongside the program, which has one CPU here: collection runs only when
# memory is short.
GO_ENVIRONMENT = {"GOGC": "off", "GOMEMLIMIT": "300MiB"}
LABEL = "testbed.execution.inside"
PATIENCE = Path("/sys/module/time/parameters/patience")  # of the guest's kernel, in slices of 20 ms
# Keys of Docker's HostConfig, limits and rights, that logs/containers.json keeps.
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
    """The hosts of a run as containers of one Docker daemon."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        super().__init__(run, plan)
        self._containers: dict[str, Any] = {}
        self._pids: dict[str, int] = {}

    def __enter__(self) -> Containers:
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="testbed-", dir="/run"))
            self._folder.chmod(0o755)
            stack.callback(_remove_with_mounts, self._folder)
            self._name_files = write_names(self._folder, self.plan.network)
            self._collector = stack.enter_context(
                collecting(self.run, self.plan, self._folder / "records")
            )
            self._values = self._share_values(self._folder)
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

            # The daemon's timers would fire between those of the ranks, at different points in each
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

        descriptions = {}
        for host, container in self._containers.items():
            details = client.api.inspect_container(container.id)
            self._pids[host] = details["State"]["Pid"]
            descriptions[host] = _description(details)

        write_json(self.run.containers, descriptions)

    @property
    def namespaces(self) -> dict[str, int]:
        """First process of each container, by host; its network namespace has only loopback."""
        return dict(self._pids)

    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        del netns  # the containers are the namespaces
        if self._parent is not None:
            orders = [self._order(rank, is_server=True) for rank in self.servers_of(hosts)]
            for rank in self.processes:
                if rank.host in hosts:
                    orders.append(self._order(rank))

            self._parent.start(orders)
            return

        for host in hosts:
            first_process = Path("/proc", str(self._pids[host]), "exe")
            orders = [
                Order(rank.rank, rank.host, is_server=True) for rank in self.servers_of([host])
            ]
            orders += [Order(rank.rank, rank.host) for rank in self.processes_of(host)]

            try:
                send_orders(self._fifo(host), orders, first_process)
            except WorkerError as error:
                raise WorkerError(f"{error}: {self._output_tail(host)}") from None

    def _kill(self, host: str) -> None:
        # the container's namespaces end with its first process
        cgroups.kill(self._cgroup(host), but=self._pids[host])

    def _order(self, rank: Rank, *, is_server: bool = False) -> Order:
        owner = self.run.path.stat()
        return Order(
            rank.rank,
            rank.host,
            cgroup=str(self._cgroup(rank.host)),
            container_pid=self._pids[rank.host],
            user=(owner.st_uid, owner.st_gid),
            is_server=is_server,
        )

    def lost(self) -> list[str]:
        """Return the hosts whose container has ended; all hosts if the common zygote has ended."""
        if self._parent is not None and self._parent.ended():
            return list(self._pids)

        lost_hosts = []
        for host, pid in self._pids.items():
            if not Path("/proc", str(pid), "exe").exists():
                lost_hosts.append(host)

        return lost_hosts

    def pids(self, host: str) -> list[int]:
        """Return the processes of `host`, without the first process of its container."""
        pids = cgroups.processes(self._cgroup(host))
        return [pid for pid in pids if pid != self._pids[host]]

    def memory_kills(self, host: str) -> int:
        """Return the number of processes of `host` killed by the kernel for lack of memory."""
        return cgroups.memory_kills(self._cgroup(host))

    def _cgroup(self, host: str) -> Path:
        return self._group / "hosts" / str(self._containers[host].id)

    def _fifo(self, host: str) -> Path:
        return self._folder / host / "orders"

    def _container_log(self, host: str) -> Path:
        return self.run.logs / f"container-{host}.log"

    def _new_logs(self, host: str) -> list[Path]:
        """Create the logs of a host whose zygote is in the container, which writes to them."""
        logs = [self._container_log(host)]
        logs += [self._log(rank.rank) for rank in self.processes_of(host)]
        for log in logs:
            log.touch()
            self._give(log)
        return logs

    def _output_tail(self, host: str) -> str:
        try:
            return last_lines(self._container_log(host), OUTPUT_TAIL_LINES)
        except OSError:
            return "no output"

    def _run_container(self, client: Any, host: str, image: str) -> Any:
        owner = self.run.path.stat()
        workers = self.plan.workers
        command = ["sleep", "infinity"]
        modes = _readable(workers)
        modes[str(self.run.path)] = "ro"
        jobs = self.jobs_of(host)
        works = [self.work_folder(host, job) for job in jobs] or [self.work_folder(host)]
        for work in works:
            if work is not None:
                modes[str(work)] = "rw"
        if workers.image is not None:
            fifo = self._fifo(host)
            fifo.parent.mkdir()
            os.mkfifo(fifo)
            command = _zygote_command(self.run, fifo, self._container_log(host))
            modes[str(fifo.parent)] = "ro"
            for log in self._new_logs(host):
                modes[str(log)] = "rw"

        if self._values is not None:
            modes[str(self._values)] = "rw"

        mounts = [_bound(path, path, mode) for path, mode in modes.items()]
        assert self._collector is not None
        mounts.append(_bound(str(self._collector.folder_of(host)), str(self.run.raw), "ro"))
        for job in jobs:
            pipes = self._collector.folder_of(host, job)
            mounts.append(_bound(str(pipes), str(self.run.job(job.name).raw), "ro"))
        for file, target in self._name_files.items():
            mounts.append(_bound(str(file), str(target), "ro"))

        # For a network, even none, Docker would start a program in each new namespace.
        return client.containers.run(
            image,
            command,
            detach=True,
            name=f"{self._folder.name}-{host}",
            hostname=host,
            network_mode="none",
            network_disabled=True,
            read_only=True,
            tmpfs={"/tmp": "mode=1777,exec", "/run": ""},  # Docker's default is noexec
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user=f"{owner.st_uid}:{owner.st_gid}",
            mem_limit=workers.memory_bytes,
            pids_limit=cgroups.PIDS_MAX,
            ipc_mode="private",
            shm_size=workers.memory_bytes,
            mounts=mounts,
            environment={**_environment(), **ENVIRONMENT},
            labels={LABEL: self._folder.name},
            log_config=docker.types.LogConfig(type="none"),
            **_cpu_limits(self.plan),
        )


def _bound(source: str, target: str, mode: str) -> docker.types.Mount:
    """Return a mount of a folder or file; `volumes` of Docker would split names at colons."""
    return docker.types.Mount(target, source, type="bind", read_only=mode == "ro")


def _cpu_limits(plan: Plan) -> dict[str, int]:
    """Return Docker's options that limit the CPU time of a container.

    A quota counts the host's CPU time. On the virtual clock, where computation takes no time, a
    quota would add time.
    """
    cpus = plan.workers.cpus
    if plan.clock == "real":
        return {"nano_cpus": int(cpus * 1e9)}

    return {"cpu_shares": max(MIN_CPU_SHARES, int(cpus * CPU_SHARES))}


def _description(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity, limits and rights of a container from Docker's details."""
    description = {name: details[name] for name in ("Id", "Name", "Image", "Path", "Args")}

    for name in DESCRIBED:
        description[name] = details["HostConfig"][name]

    return description


@contextmanager
def _impatient_kernel() -> Iterator[None]:
    """Make the guest's kernel pre-empt frequently within the block.

    Docker's programs busy-wait for other threads.
    """
    if not os.access(PATIENCE, os.W_OK):  # a different kernel, or a run directly on this machine
        yield
        return

    before = PATIENCE.read_text()
    PATIENCE.write_text("0")

    try:
        yield
    finally:
        PATIENCE.write_text(before)


def _zygote_command(run: RunDir, fifo: Path, log: Path) -> list[str]:
    zygote = ["python3", "-m", "testbed.workers.zygote", str(run.path), str(fifo)]
    return ["/bin/sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", str(log), *zygote]


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(PROJECT),
    }


def _readable(workers: Workers) -> dict[str, str]:
    """Return the folders that a container may read, with Docker's mode for each folder.

    The folders are this project, the folders in the plan, and without a user's image the machine's
    userland.
    """
    named = [Path(folder) for folder in workers.readable]
    if LIBRARIES in os.environ:
        named.append(Path(os.environ[LIBRARIES]))

    if workers.image is not None:
        return {str(path): "ro" for path in (PROJECT, *named)}

    paths = []
    for name in USERLAND:
        path = Path("/", name)
        if path.is_dir() and not path.is_symlink():
            paths.append(path)

    for path in (Path(sys.prefix), Path(sys.base_prefix), PROJECT, *named):
        in_userland = path.parts[1] in USERLAND  # perhaps by a symbolic link, such as /bin
        if not in_userland and not any(path.is_relative_to(other) for other in paths):
            paths.append(path)

    return {str(path): "ro" for path in paths}


def _start_daemon(folder: Path, group: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a Docker daemon.

    Args:
        folder: folder for the daemon's files and socket.
        group: control group of the daemon and its containers.
        log: file for the daemon's output.
    """
    (group / "daemon").mkdir()
    command = ["dockerd"]
    command += ["--data-root", str(folder / "data")]
    command += ["--exec-root", str(folder / "exec")]
    command += ["--pidfile", str(folder / "pid")]
    command += ["--host", f"unix://{folder}/socket"]
    command += ["--storage-driver", "overlay2"]
    command += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
    command += ["--cgroup-parent", f"/{group.name}/hosts"]
    command += ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
    crun = shutil.which("crun")
    if crun is not None:  # crun starts a container several times as fast as runc
        command += ["--add-runtime", f"crun={crun}", "--default-runtime", "crun"]

    join_group = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(group / "daemon" / "cgroup.procs")]
    with log.open("w") as out:
        return subprocess.Popen(
            join_group + command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **GO_ENVIRONMENT},
        )


def _remove_with_mounts(folder: Path) -> None:
    """Remove the daemon's folder, including the file systems that the daemon has mounted there."""
    mount_points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]

    for mount_point in sorted(mount_points, reverse=True):
        if mount_point.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount_point], check=False)

    shutil.rmtree(folder, ignore_errors=True)


def _connect(daemon: subprocess.Popen[bytes], folder: Path, log: Path) -> Any:
    """Return a client of the daemon, once the daemon's socket exists.

    Raises:
        RunError: the daemon does not start.
    """
    deadline = time.monotonic() + DAEMON_START_S

    while not (folder / "socket").exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            output = last_lines(log, OUTPUT_TAIL_LINES)
            raise RunError(f"the Docker daemon did not start:\n{output}")

        time.sleep(0.01)

    return docker.DockerClient(
        base_url=f"unix://{folder}/socket", version=DOCKER_API, timeout=DOCKER_TIMEOUT_S
    )


def _import_image(client: Any, image: str | None) -> str:
    """Import the image to run, and return its name.

    Args:
        client: client of the daemon.
        image: path of an archive from ``docker save`` or of a root file system; None: the machine's
            userland.
    """
    if image is None:
        client.api.import_image_from_data(_skeleton(), repository=IMAGE, tag="latest")
        return f"{IMAGE}:latest"

    with tarfile.open(image) as archive:
        is_saved = "manifest.json" in archive.getnames()

    if not is_saved:
        client.api.import_image_from_file(image, repository=USER_IMAGE, tag="latest")
        return f"{USER_IMAGE}:latest"

    with Path(image).open("rb") as file:
        return str(client.images.load(file)[0].id)


def _skeleton() -> bytes:
    """Return an archive of mount points: empty folders, and symbolic links as on the machine."""
    buffer = io.BytesIO()

    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(Path("/").iterdir()):
            if path.is_symlink() or path.is_dir():
                archive.addfile(_skeleton_entry(path))

    return buffer.getvalue()


def _skeleton_entry(path: Path) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path.name)
    entry.type = tarfile.DIRTYPE
    entry.mode = 0o1777 if path.name == "tmp" else 0o755
    if path.is_symlink():
        entry.type = tarfile.SYMTYPE
        entry.linkname = str(path.readlink())

    return entry
