"""One rank: joins the process group and runs the workload's script.

A workload is a file workloads/<name>.py with ``main(context: RankContext) -> None``.
"""

from __future__ import annotations

import datetime
import fcntl
import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from testbed.errors import RunError
from testbed.plan import Plan
from testbed.rundir import RunDir, append_record
from testbed.workers.recorder import Recorder

WORKLOADS = Path(__file__).parent.parent.parent / "workloads"


@dataclass(frozen=True)
class RankContext:
    """What a workload's script gets."""

    plan: Plan
    run: RunDir
    rank: int
    world_size: int
    settings: dict[str, Any]
    recorder: Recorder


def run_rank(run: RunDir, plan: Plan, rank: int) -> None:
    """Be rank `rank` from the environment to the end of the workload."""
    workers = plan.workers
    me = workers.ranks[rank]
    os.environ.update(rank_environment(plan, rank, emulated_interfaces()))
    append_record(run.rank_starts, {"rank": rank, **surroundings()})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=workers.timeout_s))
    recorder = Recorder(run, me.rank)
    try:
        main = load_workload(workers.workload)
        main(RankContext(plan, run, me.rank, len(workers.ranks), workers.settings, recorder))
        dist.barrier()  # no rank closes its connections while another still needs them
    finally:
        recorder.close()
        dist.destroy_process_group()


def emulated_interfaces() -> str:
    """The one interface of this namespace besides loopback: gloo must use it and nothing else.

    Raises:
        RunError: there is none, or more than one, and so a path around the emulated network.
    """
    names = [name for _index, name in socket.if_nameindex() if name.endswith("-eth0")]
    others = [name for _index, name in socket.if_nameindex() if name != "lo" and name not in names and _is_up(name)]
    if len(names) != 1 or others:
        raise RunError(f"a host must have exactly one interface besides lo, and this one has {names + others}")
    return names[0]


def surroundings() -> dict[str, Any]:
    """This process's host, its network interfaces, and its rights (proc(5): CapEff, NoNewPrivs)."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
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
    """Environment variables as torchrun sets them, and gloo's interface (once per connection of a pair)."""
    workers = plan.workers
    me = workers.ranks[rank]
    master = plan.network.host(workers.ranks[0].host)
    connections = int(workers.settings.get("connections", 1))
    return {
        "RANK": str(me.rank),
        "LOCAL_RANK": str(me.local_rank),
        "WORLD_SIZE": str(len(workers.ranks)),
        "LOCAL_WORLD_SIZE": str(sum(other.host == me.host for other in workers.ranks)),
        "MASTER_ADDR": str(master.address.ip),
        "MASTER_PORT": str(workers.master_port),
        "GLOO_SOCKET_IFNAME": ",".join([interface] * connections),
        **workers.environment,
    }


def load_workload(name: str) -> Callable[[RankContext], None]:
    """The ``main`` of workloads/<name>.py."""
    path = WORKLOADS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"workloads.{name}", path)
    if spec is None or spec.loader is None:
        raise RunError(f"there is no workload script {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    main: Callable[[RankContext], None] = module.main
    return main
