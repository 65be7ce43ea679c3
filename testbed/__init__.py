"""A network-emulation testbed for training across datacenters.

The names in ``__all__`` run workloads, sweeps and deployments, and describe topologies in Python.
Each name is imported on first use:

    from testbed import Datacenter, Topology, Wan, run
    iowa = Datacenter(hosts=4, location=(41.22, -95.86))
    ohio = Datacenter(hosts=4, location=(40.07, -82.76))
    topology = Topology(
        name="two-sites",
        datacenters={"iowa": iowa, "ohio": ohio},
        wan=[Wan(between=("iowa", "ohio"), rate="10 Gbit/s", delay="8.2 ms")],
    )
    result = run(topology, "collectives", isolation="process")
    print(result.collectives)
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.api import (
        DeployedNetwork,
        PointProgress,
        PreparedRun,
        Run,
        RunProgress,
        Sweep,
        deploy,
        open_run,
        open_sweep,
        prepare,
        run,
        sweep,
    )
    from testbed.core.errors import (
        GuestLost,
        InputError,
        MachineError,
        RunError,
        TestbedError,
        Unfaithful,
        UnfaithfulWarning,
        WorkerError,
    )
    from testbed.spec.topology import Datacenter, DatacenterDefaults, Defaults, Nic, Tcp, Topology
    from testbed.spec.wan import GilbertElliott, LinkSettings, Wan

__version__ = "0.2.0"

if not Path(__file__).with_name("workloads").exists():
    # In a checkout, workloads/ is next to this package. Both are imported as `testbed.workloads`,
    # so a folder named workloads in the user's working directory cannot shadow the package.
    __path__.append(str(Path(__file__).resolve().parent.parent))

_HOMES = {
    "testbed.api": (
        "DeployedNetwork",
        "PointProgress",
        "PreparedRun",
        "Run",
        "RunProgress",
        "Sweep",
        "deploy",
        "open_run",
        "open_sweep",
        "prepare",
        "run",
    ),
    "testbed.core.errors": (
        "GuestLost",
        "InputError",
        "MachineError",
        "RunError",
        "TestbedError",
        "Unfaithful",
        "UnfaithfulWarning",
        "WorkerError",
    ),
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
    "DeployedNetwork",
    "GilbertElliott",
    "GuestLost",
    "InputError",
    "LinkSettings",
    "MachineError",
    "Nic",
    "PointProgress",
    "PreparedRun",
    "Run",
    "RunError",
    "RunProgress",
    "Sweep",
    "Tcp",
    "TestbedError",
    "Topology",
    "Unfaithful",
    "UnfaithfulWarning",
    "Wan",
    "WorkerError",
    "deploy",
    "open_run",
    "open_sweep",
    "prepare",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name == "sweep":  # the package is callable and serves as the function
        return import_module("testbed.sweep")
    for module_name, names in _HOMES.items():
        if name in names:
            module = import_module(module_name)
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
