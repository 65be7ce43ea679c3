"""One rank: from its environment to the end of the workload, or of the user's script.

A workload is a file workloads/<name>.py with ``main(context: RankContext) -> None``. Everything
that it does with torch.distributed is recorded, in the phase ``train``, unless the file says
``RECORDS_ITSELF = True``.
"""

from __future__ import annotations

import datetime
import fcntl
import importlib.util
import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from testbed.core.errors import RunError
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir, append_record
from testbed.workers.dispatcher import Interception
from testbed.workers.recorder import Recorder
from testbed.workloads.script.runner import run_script

WORKLOADS = "testbed.workloads"


@dataclass(frozen=True)
class RankContext:
    """What a workload's script gets."""

    plan: Plan
    run: RunDir
    rank: int
    world_size: int
    settings: dict[str, Any]
    recorder: Recorder


def run_rank(run: RunDir, plan: Plan, rank: int) -> int:
    """Be rank `rank` from the environment to the end; returns the exit status."""
    workers = plan.workers
    os.environ.update(rank_environment(plan, rank, emulated_interfaces()))
    append_record(run.rank_starts, {"rank": rank, **surroundings()})
    if workers.workload == "script":
        return run_script(run, plan, workers.ranks[rank])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=workers.timeout_s))
    recorder = Recorder(run, rank)
    try:
        _run_workload(RankContext(plan, run, rank, len(workers.ranks), workers.settings, recorder))
        dist.barrier()  # no rank closes its connections while another still needs them
    finally:
        recorder.close()
        dist.destroy_process_group()
    return 0


def _run_workload(context: RankContext) -> None:
    module = load_workload(context.plan.workers.workload)
    interception = (
        None
        if getattr(module, "RECORDS_ITSELF", False)
        else Interception(context.recorder.record, "train")
    )
    try:
        module.main(context)
    finally:
        if interception is not None:
            interception.close()


def emulated_interfaces() -> str:
    """The one interface of this namespace besides loopback: gloo must use it and nothing else.

    Raises:
        RunError: there is none, or more than one, and so a path around the emulated network.
    """
    names = [name for _index, name in socket.if_nameindex() if name.endswith("-eth0")]
    others = [
        name
        for _index, name in socket.if_nameindex()
        if name != "lo" and name not in names and _is_up(name)
    ]
    if len(names) != 1 or others:
        raise RunError(
            f"a host must have exactly one interface besides lo, and this one has {names + others}"
        )
    return names[0]


def surroundings() -> dict[str, Any]:
    """This process's host, its network interfaces, and its rights (proc(5): CapEff, NoNewPrivs)."""
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return {
        "host": socket.gethostname(),
        "interfaces": [name for _index, name in socket.if_nameindex()],
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"] == "1",
    }


def _is_up(interface: str) -> bool:
    siocgifflags, iff_up = 0x8913, 1  # linux/sockios.h, linux/if.h; /sys may show another namespace
    request = struct.pack("16sH14x", interface.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, siocgifflags, request), 16)
    return bool(flags & iff_up)


def rank_environment(plan: Plan, rank: int, interface: str) -> dict[str, str]:
    """Environment variables as torchrun sets them, and gloo's interface (once per connection of a
    pair).

    Beside them are those of the testbed, ``TESTBED_...`` (docs/your-script.md lists them), and for
    a command that starts a host's ranks itself those from which torchrun takes what its own options
    leave open, ``PET_...``.
    """
    workers = plan.workers
    me = workers.ranks[rank]
    hosts = list(dict.fromkeys(other.host for other in workers.ranks))
    address, port = (
        str(plan.network.host(workers.ranks[0].host).address.ip),
        str(workers.master_port),
    )
    node, nodes, ranks = str(hosts.index(me.host)), str(len(hosts)), str(len(workers.ranks))
    local_ranks = str(sum(other.host == me.host for other in workers.ranks))
    connections = int(workers.settings.get("connections", 1))
    variables = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": str(me.rank),
        "WORLD_SIZE": ranks,
        "LOCAL_RANK": str(me.local_rank),
        "LOCAL_WORLD_SIZE": local_ranks,
        "GROUP_RANK": node,
        "GROUP_WORLD_SIZE": nodes,
        "ROLE_NAME": "default",
        "ROLE_RANK": str(me.rank),
        "ROLE_WORLD_SIZE": ranks,
        "TORCHELASTIC_RUN_ID": "testbed",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "GLOO_SOCKET_IFNAME": ",".join([interface] * connections),
        "TESTBED_MASTER": address,
        "TESTBED_MASTER_PORT": port,
        "TESTBED_NODE_RANK": node,
        "TESTBED_NODES": nodes,
        "TESTBED_RANKS_PER_HOST": local_ranks,
        "TESTBED_DATACENTERS": ",".join(
            plan.network.host(other.host).dc for other in workers.ranks
        ),
    }
    if workers.once_per_host:
        variables |= {
            "PET_NNODES": nodes,
            "PET_NODE_RANK": node,
            "PET_NPROC_PER_NODE": local_ranks,
            "PET_MASTER_ADDR": address,
            "PET_MASTER_PORT": port,
        }
    return variables | workers.environment


def load_workload(name: str) -> ModuleType:
    """The script workloads/<name>/main.py, executed afresh, so that a rank shares no state with the
    zygote's copy.

    Raises:
        RunError: there is no such workload.
    """
    spec = importlib.util.find_spec(f"{WORKLOADS}.{name}.main")
    if spec is None or spec.loader is None:
        raise RunError(f"there is no workload {name!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
