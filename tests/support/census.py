"""What there is in this machine, or in the namespaces of this process: to compare before and after.

usage: python census.py    prints it as JSON, without the processes that count
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Census = dict[str, list[str]]
SYSCTLS = (
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_congestion_control",
)


def census(temporary: Sequence[str] = ("/tmp", "/run"), docker: str | None = None) -> Census:
    """By kind, in order. Processes are listed with their numbers; zombies and this process's
    ancestors are left out.

    Args:
        temporary: folders whose entries count as temporary.
        docker: the socket of a Docker daemon whose containers and images count.
    """
    links = json.loads(_output("ip", "-json", "link"))
    temporary_files: list[str] = []
    for top in temporary:
        temporary_files += [f"{top}/{name}" for name in _names(Path(top))]
    groups = Path("/sys/fs/cgroup")
    return {
        "processes": _processes(),
        "namespaces": sorted(
            {str(link.readlink()) for link in Path("/proc").glob("[0-9]*/ns/*") if _is_there(link)}
        ),
        "named namespaces": _names(Path("/run/netns")),
        "links": sorted(link["ifname"] for link in links),
        "queues": sorted(_output("tc", "qdisc", "show").splitlines()),
        "mounts": _mounts(),
        "control groups": sorted(str(path) for path in groups.rglob("*/"))
        if _has_groups(groups)
        else [],
        "controllers": (groups / "cgroup.subtree_control").read_text().split()
        if _has_groups(groups)
        else [],
        "shared memory": _names(Path("/dev/shm")),
        "temporary files": sorted(temporary_files),
        "listening": sorted(_output("ss", "-Hlntu").splitlines()),
        "sysctls": [Path("/proc/sys", name).read_text().strip() for name in SYSCTLS],
        "host name": [os.uname().nodename],
        "containers and images": _containers(docker) if docker else [],
    }


def differences(before: Census, after: Census) -> dict[str, tuple[list[str], list[str]]]:
    """By kind: what is new, and what has gone."""
    changes: dict[str, tuple[list[str], list[str]]] = {}
    for kind in before:
        new = [thing for thing in after[kind] if thing not in before[kind]]
        gone = [thing for thing in before[kind] if thing not in after[kind]]
        if new or gone:
            changes[kind] = (new, gone)
    return changes


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _is_there(link: Path) -> bool:
    try:
        link.readlink()
    except OSError:
        return False
    return True


def _mounts() -> list[str]:
    """But for those that the world of this process has inherited: others may move and end them."""
    inherited = set(os.environ.get("INHERITED_MOUNTS", "").split())
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(fields[4] for fields in mounts if fields[0] not in inherited)


def _has_groups(root: Path) -> bool:
    return (root / "cgroup.subtree_control").exists()


def _processes() -> list[str]:
    own, found = _ancestors(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in own:
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if words:  # else a kernel thread, or a zombie
                found.append(
                    f"{entry.name} {words.replace(bytes(1), b' ').decode(errors='replace').strip()}"
                )
    return sorted(found)


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        stat = Path("/proc", str(pid), "stat").read_text()
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return found


def _containers(socket: str) -> list[str]:
    import docker

    client = docker.DockerClient(base_url=f"unix://{socket}", version="1.41")
    try:
        images: list[str] = []
        for image in client.images.list():
            images += image.tags
        return [f"{one.name} {one.status}" for one in client.containers.list(all=True)] + sorted(
            images
        )
    finally:
        client.close()


if __name__ == "__main__":
    json.dump(census(), sys.stdout)
