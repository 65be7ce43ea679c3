"""Names within the emulated network: programs find hosts by theirs, and border routers by their
datacenter's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.core.linux import MS_BIND, mount, umount
from testbed.plan.model import Network

# Nobody serves names. At this address of the host's own a question is refused at once; at that of
# the machine's name server, which no packet reaches, glibc would wait for 5 s, and ask again.
NO_SERVER = "nameserver 127.0.0.1\n"


def write_names(folder: Path, network: Network) -> dict[Path, Path]:
    """Write files into `folder` for programs to have in place of the machine's own: the latter, by
    the former.
    """
    addresses = {dc.name: str(dc.router_address.ip) for dc in network.datacenters}
    addresses |= {host.name: str(host.address.ip) for host in network.hosts}
    addresses["localhost"] = "127.0.0.1"  # a datacenter may be called so
    texts = {
        "hosts": "".join(f"{address} {name}\n" for name, address in addresses.items()),
        "resolv.conf": NO_SERVER,
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {folder / name: Path("/etc", name) for name in texts}


@contextmanager
def named(folder: Path, network: Network) -> Iterator[None]:
    """Within the block all programs of this mount namespace find the names of `network`.

    Raises:
        OSError: this process may not mount.
    """
    with ExitStack() as stack:
        for file, place in _existing(write_names(folder, network)).items():
            mount(str(file), str(place), None, MS_BIND)
            stack.callback(umount, str(place))
        yield


def _existing(files: Mapping[Path, Path]) -> dict[Path, Path]:
    """Without a resolv.conf, as where it is a link into a /run that the guest does not have, nobody
    is asked.
    """
    return {file: place for file, place in files.items() if place.exists()}
