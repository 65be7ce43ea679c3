"""One rank, from its environment to the end of its workload."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import torch
import torch.distributed as dist

from testbed.core.errors import RunError
from testbed.plan.model import HOST_INTERFACE, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import RankStarted, append
from testbed.workers import comm
from testbed.workers.comm import CommLibrary
from testbed.workers.dispatcher import Interception
from testbed.workers.gpu.device_library import CARD_RATE, planned_gpu_environment
from testbed.workers.workload import RankContext, load_workload, shared_workload, workload_traits

SIOCGIFFLAGS, SIOCGIFADDR, IFF_UP = 0x8913, 0x8915, 1  # linux/sockios.h, linux/if.h


def run_rank(run: RunDir, plan: Plan, rank: int) -> int:
    """Run one rank in this process, from the environment to the end of the workload.

    Returns:
        The exit status.
    """
    workload = plan.workers.workload
    library = comm.library()
    check_interfaces(plan.network.host(plan.workers.ranks[rank].host).address.ip)
    os.environ.update(rank_environment(plan, rank, library))
    append(run.rank_starts, _surroundings(rank))
    context = RankContext(plan, run, rank)
    if not workload_traits(workload).in_process_group:
        return shared_workload(workload).main(context) or 0

    torch.set_num_threads(1)
    library.init_process_group(timedelta(seconds=plan.workers.timeout_s))
    recorder = context.recorder
    status: int | None = None

    try:
        status = _run_workload(workload, context)
        dist.barrier()  # no rank closes its connections while another still needs them
    finally:
        recorder.close()
        dist.destroy_process_group()

    return status or 0


def run_server(run: RunDir, plan: Plan, rank: int) -> int:
    """Run commands of other hosts in this process, on the host of a rank, until the run ends."""
    planned = plan.workers.ranks[rank]
    host = plan.network.host(planned.host)
    check_interfaces(host.address.ip)
    environment = rank_environment(plan, rank, comm.library())
    os.environ.update(environment)
    workload = shared_workload(plan.workers.workload)
    context = RankContext(plan, run, rank)
    return workload.serve(context)


def _run_workload(name: str, context: RankContext) -> int | None:
    workload = load_workload(name)
    if workload.RECORDS_ITSELF:
        return workload.main(context)

    interception = Interception(context.recorder.record, "train", len(context.plan.workers.ranks))
    try:
        return workload.main(context)
    finally:
        interception.close()


def check_interfaces(address: IPv4Address) -> None:
    """Check that this network namespace is the host with `address`, and has no other path out.

    Raises:
        RunError: the namespace lacks the host's interface, or has others, and so a path around the
            emulated network.
    """
    used = []
    for name in _interfaces():
        if name == HOST_INTERFACE or (name != "lo" and _is_up(name)):
            used.append(name)

    if used != [HOST_INTERFACE]:
        raise RunError(
            f"a host must have exactly one interface besides lo, {HOST_INTERFACE}, but this one "
            f"has {used}"
        )

    found = _address(HOST_INTERFACE)
    if found != address:
        raise RunError(f"{HOST_INTERFACE} of a host must have the address {address}, not {found}")


def _interfaces() -> list[str]:
    return [name for _index, name in socket.if_nameindex()]


def _is_up(interface: str) -> bool:
    """Return whether an interface is up."""
    (flags,) = struct.unpack_from("H", _interface_request(SIOCGIFFLAGS, interface), 16)
    return bool(flags & IFF_UP)


def _address(interface: str) -> IPv4Address | None:
    try:
        answer = _interface_request(SIOCGIFADDR, interface)
    except OSError:  # the interface has no address
        return None

    return IPv4Address(answer[20:24])


def _interface_request(request: int, interface: str) -> bytes:
    """Return the kernel's answer about an interface, by ioctl: /sys may be another namespace's."""
    question = struct.pack("16s24x", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket, request, question)


def _surroundings(rank: int) -> RankStarted:
    """Return this process's host, interfaces and rights (proc(5): CapEff, NoNewPrivs)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)

    return RankStarted(
        rank=rank,
        host=socket.gethostname(),
        interfaces=_interfaces(),
        capabilities=int(status["CapEff"], 16),
        no_new_privileges=status["NoNewPrivs"] == "1",
    )


def rank_environment(plan: Plan, rank: int, library: CommLibrary) -> dict[str, str]:
    """Return the environment variables of one rank.

    The variables are those of torchrun, of the communication library and of the plan, and the
    testbed's ``TESTBED_...`` (listed in docs/your-script.md). A command that starts a host's ranks
    itself also gets ``PET_...``, from which torchrun takes omitted options.

    Args:
        plan: plan of the run.
        rank: number of the rank.
        library: the communication library.
    """
    workers = plan.workers
    this_rank = workers.ranks[rank]
    hosts = list(dict.fromkeys(other.host for other in workers.ranks))
    master_address = str(plan.network.host(workers.ranks[0].host).address.ip)
    master_port = str(workers.master_port)
    node = str(hosts.index(this_rank.host))
    nodes = str(len(hosts))
    world_size = str(len(workers.ranks))
    local_ranks = str(sum(other.host == this_rank.host for other in workers.ranks))
    datacenters = [plan.network.host(other.host).dc for other in workers.ranks]
    connections = int(workers.settings.get("connections", 1))
    variables = {
        "MASTER_ADDR": master_address,
        "MASTER_PORT": master_port,
        "RANK": str(this_rank.rank),
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": str(this_rank.local_rank),
        "LOCAL_WORLD_SIZE": local_ranks,
        "GROUP_RANK": node,
        "GROUP_WORLD_SIZE": nodes,
        "ROLE_NAME": "default",
        "ROLE_RANK": str(this_rank.rank),
        "ROLE_WORLD_SIZE": world_size,
        "TORCHELASTIC_RUN_ID": "testbed",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TESTBED_MASTER": master_address,
        "TESTBED_MASTER_PORT": master_port,
        "TESTBED_NODE_RANK": node,
        "TESTBED_NODES": nodes,
        "TESTBED_RANKS": world_size,
        "TESTBED_RANKS_PER_HOST": local_ranks,
        "TESTBED_HOSTS": ",".join(other.host for other in workers.ranks),
        "TESTBED_DATACENTERS": ",".join(datacenters),
    }
    variables.update(library.environment(HOST_INTERFACE, connections))
    variables.update(planned_gpu_environment(workers.settings))
    if workers.has_gpus:
        card = plan.network.host(this_rank.host)
        rate_bps = min(card.nic_up.rate_bps, card.nic_down.rate_bps)
        variables[CARD_RATE] = str(rate_bps * int(workers.settings.get("scale", 1)))

    if workers.once_per_host:
        variables.update(
            PET_NNODES=nodes,
            PET_NODE_RANK=node,
            PET_NPROC_PER_NODE=local_ranks,
            PET_MASTER_ADDR=master_address,
            PET_MASTER_PORT=master_port,
        )

    variables.update(workers.environment)
    return variables
