"""Recording of torch.distributed in a process of the user's script, configured by the environment.

Python processes that the script starts find `testbed.workers.hook` on their PYTHONPATH, which calls
`observe` before the first process group is made. Such a process may be any rank: its default
process group says which. The process that the testbed itself starts for a rank is that rank.
"""

from __future__ import annotations

import atexit
import functools
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.rpc.options as rpc_options

from testbed.core.compat.torch_process_groups import set_default_timeout
from testbed.core.compat.torch_rpc import without_polling
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Operation, SeparateWorld, ValueDecided, append
from testbed.workers.dispatcher import Interception
from testbed.workers.gpu.device_library import is_asked_for
from testbed.workers.recorder import Recorder

HOOK = Path(__file__).parent / "hook"
RUN = "TESTBED_RUN_FOLDER"
HOSTS = "TESTBED_HOSTS"  # the host of each rank
TIMEOUT = "TESTBED_TIMEOUT_S"
BEGUN = "TESTBED_BEGUN"  # set if the run's events count already, regardless of the script


class Observation:
    """The recording of one process, and of the processes that are forked from it."""

    def __init__(self, run: RunDir, hosts: list[str], rank: int | None) -> None:
        """Prepare the recording.

        Args:
            run: the run folder.
            hosts: the host of each rank of the run.
            rank: rank of this process; None: the rank in the default process group.
        """
        self._run = run
        self._hosts = hosts
        self._recorder = None if rank is None else Recorder(run, rank)
        self._begins = BEGUN not in os.environ
        self._interception: Interception | None = None

    def start(self) -> None:
        """Record the operations of this process from now on."""
        self._interception = Interception(self._record, "script", len(self._hosts), self._begin)
        if is_asked_for():
            self._watch_gpus()

        atexit.register(self._interception.settle)
        os.register_at_fork(after_in_child=self._forget_rank)

    def _watch_gpus(self) -> None:
        """Record the steps and streams of modelled GPUs, and decisions by their values."""
        from testbed.workers.gpu.steps import WATCH  # noqa: PLC0415  # only with modelled GPUs

        WATCH.write_to(lambda record: self._own_recorder().record_gpu(record))

    def decided(self, file: str, line: int) -> None:
        """Record that the script has decided by the value of a modelled tensor."""
        rank = self._own_recorder().rank
        append(self._run.events, ValueDecided(rank=rank, file=file, line=line))

    def joined(self) -> None:
        """Check the default process group that this process has joined.

        Raises:
            RuntimeError: the group, or this host's part, is larger than the run.
        """
        world_size = dist.get_world_size()
        if world_size > len(self._hosts):
            raise RuntimeError(self._too_large(f"the process group has {world_size} ranks"))

        ranks_here = self._hosts.count(socket.gethostname())
        if world_size <= ranks_here < len(self._hosts):
            self._report_separate_world(world_size)

    def _report_separate_world(self, world_size: int) -> None:
        """Say that one host may hold this group, in this process's log and the run's records."""
        rank = self._own_recorder().rank
        append(self._run.events, SeparateWorld(rank=rank, world_size=world_size))
        print(
            f"testbed: warning: the world size of this process group is {world_size}, but the run "
            f"has {len(self._hosts)} ranks on {len(set(self._hosts))} hosts: hosts may be training "
            "separately",
            file=sys.stderr,
            flush=True,
        )

    def _forget_rank(self) -> None:
        """Let a forked process find its rank itself."""
        self._recorder = None

    def _begin(self) -> None:
        recorder = self._own_recorder()
        if self._begins:
            recorder.begin()

    def _record(self, operation: Operation) -> None:
        self._own_recorder().record(operation)

    def _own_recorder(self) -> Recorder:
        if self._recorder is None:
            self._recorder = self._find_recorder()

        return self._recorder

    def _find_recorder(self) -> Recorder:
        """Return the recorder of the rank that this process is in the plan of the run.

        A rank of the script that the plan has on another host, because the script numbers its ranks
        differently, is recorded as one of this host's ranks.
        """
        host = socket.gethostname()
        if dist.is_initialized():
            rank = dist.get_rank()
            if self._hosts[rank] == host and dist.get_world_size() > 1:
                return Recorder(self._run, rank)

        ranks_here = [rank for rank, other in enumerate(self._hosts) if other == host]
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        ranks_here = ranks_here[local_rank:] + ranks_here[:local_rank]
        for rank in ranks_here:
            recorder = Recorder(self._run, rank)
            if recorder.claim():
                return recorder

            recorder.close()

        raise RuntimeError(self._too_large(f"{host} has more than {len(ranks_here)} ranks"))

    def _too_large(self, reason: str) -> str:
        hosts = len(set(self._hosts))
        return (
            f"testbed: {reason}, but the run has {len(self._hosts)} ranks on {hosts} hosts: use "
            "--nproc-per-host; if the script starts the ranks of its host itself, run it as a "
            "command: --nproc-per-host N -- python SCRIPT"
        )


_observations: list[Observation] = []  # of this process: at most one, which lasts


def observed_environment(run: RunDir, timeout_s: int) -> dict[str, str]:
    """Return the environment variables that `observe` reads, with the hook on PYTHONPATH.

    Args:
        run: the run folder for the records.
        timeout_s: timeout in seconds of process groups that are made without one.
    """
    python_path = [str(HOOK)]
    if os.environ.get("PYTHONPATH"):
        python_path.append(os.environ["PYTHONPATH"])

    return {
        RUN: str(run.path),
        TIMEOUT: str(timeout_s),
        "PYTHONPATH": os.pathsep.join(python_path),
    }


def observe(rank: int | None = None) -> None:
    """Record this process's use of torch.distributed, and set the default timeout of groups.

    Args:
        rank: rank of this process; None: the rank in the default process group.
    """
    if _observations:
        return

    run = RunDir(Path(os.environ[RUN]))
    observation = Observation(run, os.environ[HOSTS].split(","), rank)
    _observations.append(observation)
    observation.start()
    set_default_timeout(timedelta(seconds=int(os.environ[TIMEOUT])))


def report_decision(file: str, line: int) -> None:
    """Record that this process's script has decided by the value of a modelled tensor."""
    for observation in _observations:
        observation.decided(file, line)


def observe_as(rank: int) -> None:
    """Record this process, which the testbed has started for a rank, and check its groups.

    Torch's RPC does not poll in this process.
    """
    observe(rank)
    options_class = rpc_options.TensorPipeRpcBackendOptions
    options_class.__init__ = without_polling(options_class.__init__)  # type: ignore[method-assign]
    initialise = observed(dist.init_process_group)
    dist.init_process_group = initialise
    dist.distributed_c10d.init_process_group = initialise


def observed(initialise: Callable[..., None]) -> Callable[..., None]:
    """Return torch's `init_process_group`, with the process observed from then on."""

    @functools.wraps(initialise)
    def init_process_group(*arguments: Any, **options: Any) -> None:
        observe()
        initialise(*arguments, **options)
        _observations[0].joined()

    return init_process_group
