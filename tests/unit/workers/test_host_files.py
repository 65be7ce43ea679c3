"""What programs of a run read in /etc/hosts and /etc/resolv.conf."""

from pathlib import Path

from testbed.workers.host_files import write_names
from tests.support.synthetic import two_dcs


def test_every_host_and_border_router_has_its_name(tmp_path: Path) -> None:
    network = two_dcs()
    files = {place: file.read_text() for file, place in write_names(tmp_path, network).items()}
    names: dict[str, str] = {}
    for line in files[Path("/etc/hosts")].splitlines():
        address, name = line.split()
        names[name] = address
    assert names.pop("localhost") == "127.0.0.1"
    assert names == {
        **{host.name: str(host.address.ip) for host in network.hosts},
        **{dc.name: str(dc.router_address.ip) for dc in network.datacenters},
    }
    assert len(set(names.values())) == len(names)
    assert files[Path("/etc/resolv.conf")] == "nameserver 127.0.0.1\n"  # refused at once
