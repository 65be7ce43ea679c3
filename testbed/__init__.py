"""A network-emulation testbed for training across datacenters.

The names in ``__all__`` are runs and the topology language in Python; each is imported when it is
first used:

    from testbed import Datacenter, Topology, Wan, run
    iowa = Datacenter(hosts=4, location=(41.22, -95.86))
    ohio = Datacenter(hosts=4, location=(40.07, -82.76))
    topology = Topology(
        name="two-sites",
        datacenters={"iowa": iowa, "ohio": ohio},
        wan=[Wan(between=("iowa", "ohio"), rate="10 Gbit/s", delay="8.2 ms")],
    )
    result = run(topology, "collectives", isolation="process")
    print(result.summary.collectives[0].time_us.median)
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.api import Run, open_run, run
    from testbed.core.errors import InputError
    from testbed.spec.topology import Datacenter, DatacenterDefaults, Defaults, Nic, Tcp, Topology
    from testbed.spec.wan import GilbertElliott, LinkSettings, Wan

__version__ = "0.2.0"

if not Path(__file__).with_name("workloads").exists():
    # In a checkout the workloads lie beside this package. Either way they are `testbed.workloads`,
    # so that a folder called workloads in which a user works is not in the way.
    __path__.append(str(Path(__file__).resolve().parent.parent))

_HOMES = {
    "testbed.api": ("Run", "open_run", "run"),
    "testbed.core.errors": ("InputError",),
    "testbed.spec.wan": ("GilbertElliott", "LinkSettings", "Wan"),
    "testbed.spec.topology": (
        "Datacenter",
        "DatacenterDefaults",
        "Defaults",
        "Nic",
        "Tcp",
        "Topology",
    ),
}

__all__ = [
    "Datacenter",
    "DatacenterDefaults",
    "Defaults",
    "GilbertElliott",
    "InputError",
    "LinkSettings",
    "Nic",
    "Run",
    "Tcp",
    "Topology",
    "Wan",
    "open_run",
    "run",
]


def __getattr__(name: str) -> Any:
    for module_name, names in _HOMES.items():
        if name in names:
            module = import_module(module_name)
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
