"""A network-emulation testbed for training across datacenters.

The public names run workloads, sweeps and deployments, and describe topologies in Python. Each
name is imported on first use:

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

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the list of public names, which `_homes` reads
    from testbed.api import (
        Advice as Advice,
        Answer as Answer,
        DeployedNetwork as DeployedNetwork,
        Found as Found,
        PointProgress as PointProgress,
        PreparedRun as PreparedRun,
        Run as Run,
        RunProgress as RunProgress,
        Sweep as Sweep,
        advise as advise,
        deploy as deploy,
        find as find,
        open_find as open_find,
        open_run as open_run,
        open_sweep as open_sweep,
        prepare as prepare,
        run as run,
        sweep as sweep,
    )
    from testbed.core.errors import (
        GuestLost as GuestLost,
        InputError as InputError,
        MachineError as MachineError,
        RunError as RunError,
        TestbedError as TestbedError,
        Unfaithful as Unfaithful,
        UnfaithfulWarning as UnfaithfulWarning,
        WorkerError as WorkerError,
    )
    from testbed.spec.topology import (
        Datacenter as Datacenter,
        DatacenterDefaults as DatacenterDefaults,
        Defaults as Defaults,
        Nic as Nic,
        Tcp as Tcp,
        Topology as Topology,
    )
    from testbed.spec.wan import (
        GilbertElliott as GilbertElliott,
        LinkSettings as LinkSettings,
        Wan as Wan,
    )

__version__ = "0.2.0"

if not Path(__file__).with_name("workloads").exists():
    # In a checkout, workloads/ is next to this package. Both are imported as `testbed.workloads`,
    # so a folder named workloads in the user's working directory cannot shadow the package.
    __path__.append(str(Path(__file__).resolve().parent.parent))


@cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, from the imports for type checkers in this file."""
    import ast  # noqa: PLC0415 (ranks import this package, too)

    homes: dict[str, str] = {}
    for node in ast.walk(ast.parse(Path(__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("testbed."):
            for alias in node.names:
                homes[alias.name] = str(node.module)
    return homes


def __getattr__(name: str) -> Any:
    if name == "sweep":  # the package is callable and serves as the function
        return import_module("testbed.sweep")
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_homes()[name]), name)


def __dir__() -> list[str]:
    return [*_homes(), "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
