"""Enter the network namespaces of nodes, and set their sysctls."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.core import linux

# Missing in some kernels: the seed before Linux 6.11, IPv6 and br_netfilter if they are not built
# or not loaded.
OPTIONAL_SYSCTLS = (
    "net/bridge/bridge-nf-call-arptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
    "net/ipv4/fib_multipath_hash_seed",
    "net/ipv6/conf/all/disable_ipv6",
)


@contextmanager
def inside_netns(pid: int) -> Iterator[None]:
    """Move this thread into the network namespace of process `pid` within the block."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            linux.setns(other, linux.CLONE_NEWNET)
        finally:
            os.close(other)
        try:
            yield
        finally:
            linux.setns(own, linux.CLONE_NEWNET)
    finally:
        os.close(own)


def enter_node(pid: int, hostname: str) -> None:
    """Move this process permanently into the network, mounts and root of process `pid`.

    Args:
        pid: a process in the namespaces of a node.
        hostname: host name that the calling process sees; the process must have one thread.
    """
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY)
    for kind in ("net", "mnt"):
        namespace = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        linux.setns(namespace)
        os.close(namespace)
    # Entering a mount namespace changes the root to the namespace's root.
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    linux.unshare(linux.CLONE_NEWUTS)
    socket.sethostname(hostname)


def write_sysctls(pid: int, values: Mapping[str, object]) -> None:
    """Set sysctls (names with slashes) in the network namespace of process `pid`."""
    with inside_netns(pid):
        for name, value in values.items():
            path = Path("/proc/sys", name)
            if name not in OPTIONAL_SYSCTLS or path.exists():
                path.write_text(str(value))
