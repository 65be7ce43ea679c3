"""Programs and files that a host gets so that a user's launcher can start ranks on other hosts."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from testbed.plan.model import Rank
from testbed.workers import remote_client

REMOTE_PROGRAMS = ("ssh", "rsh", "pdsh")
# Inside each host: programs that reach other hosts, and lists of all hosts for launchers, in the
# forms of Open MPI and of MPICH.
PROGRAMS = Path("/tmp/testbed-programs")
HOST_FILE = PROGRAMS / "hostfile"
MACHINE_FILE = PROGRAMS / "machinefile"
LAUNCHER_ENVIRONMENT = {
    # Open MPI 4
    "OMPI_MCA_plm_rsh_agent": str(PROGRAMS / "ssh"),
    "OMPI_MCA_orte_default_hostfile": str(HOST_FILE),
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # Open MPI 5
    "PRTE_MCA_plm_ssh_agent": str(PROGRAMS / "ssh"),
    "PRTE_MCA_prte_default_hostfile": str(HOST_FILE),
    "PRTE_MCA_hwloc_default_binding_policy": "none",  # a host has one CPU for all its ranks
    # Both: ranks that wait do not busy-wait, and root of a host may start them.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # MPICH and Intel MPI
    "HYDRA_LAUNCHER": "ssh",
    "HYDRA_LAUNCHER_EXEC": str(PROGRAMS / "ssh"),
    "HYDRA_HOST_FILE": str(MACHINE_FILE),
    "PDSH_RCMD_TYPE": "ssh",
}


def write_programs(ranks: Iterable[Rank]) -> None:
    """Write the programs that reach other hosts, and the lists of hosts for launchers.

    Args:
        ranks: the ranks of the run.
    """
    host_lines = ""
    machine_lines = ""
    slots = Counter(rank.host for rank in ranks)
    for host, count in slots.items():
        host_lines += f"{host} slots={count}\n"
        machine_lines += f"{host}:{count}\n"

    PROGRAMS.mkdir(exist_ok=True)
    _replace(HOST_FILE, host_lines)
    _replace(MACHINE_FILE, machine_lines)
    for name in REMOTE_PROGRAMS:
        words = [sys.executable, "-I", remote_client.__file__, name]
        command = shlex.join(words)
        _replace(PROGRAMS / name, f'#!/bin/sh\nexec {command} "$@"\n')


def _replace(path: Path, text: str) -> None:
    """Write an executable file, which hosts may share, in one step."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text)
    new.chmod(0o755)
    new.replace(path)
