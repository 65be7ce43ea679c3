"""Names within the emulated network: hosts, and datacenters for their border routers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.core.linux import MS_BIND, mount, umount
from testbed.plan.model import Network

NO_SERVER = "nameserver 127.0.0.1\n"


def write_names(folder: Path, network: Network) -> dict[Path, Path]:
    """Write the files that programs of a run must see instead of the machine's files.

    Args:
        folder: folder for the files.
        network: the network whose names are written.

    Returns:
        For each file, the path at which programs must see the file.
    """
    addresses = {dc.name: str(dc.router_address.ip) for dc in network.datacenters}

    for host in network.hosts:
        addresses[host.name] = str(host.address.ip)

    addresses["localhost"] = "127.0.0.1"  # a datacenter may have this name
    hosts_lines = [f"{address} {name}\n" for name, address in addresses.items()]
    texts = {"hosts": "".join(hosts_lines), "resolv.conf": NO_SERVER}
    targets = {}

    for name, text in texts.items():
        (folder / name).write_text(text)
        targets[folder / name] = Path("/etc", name)

    return targets


@contextmanager
def named(folder: Path, network: Network) -> Iterator[None]:
    """Make the names of `network` resolve for all programs of this mount namespace in the block.

    Without a resolv.conf, for example if it is a link into a /run that the guest does not have,
    programs query no server.

    Args:
        folder: folder for the files.
        network: the network whose names are resolved.

    Raises:
        OSError: this process may not mount.
    """
    targets = write_names(folder, network)
    existing = {file: target for file, target in targets.items() if target.exists()}

    with ExitStack() as stack:
        for file, target in existing.items():
            mount(str(file), str(target), None, MS_BIND)
            stack.callback(umount, str(target))

        yield
