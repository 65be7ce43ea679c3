"""Recording of torch.distributed in a process of the user's script, configured by the environment.

Python processes that the script starts find `testbed.workers.hook` on their PYTHONPATH, which calls
`observe` before the first process group is made.
"""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from pathlib import Path

from testbed.core.compat.torch_process_groups import set_default_timeout
from testbed.plan.model import Rank
from testbed.runfolder.folder import RunDir
from testbed.workers.dispatcher import Interception
from testbed.workers.recorder import Recorder

HOOK = Path(__file__).parent / "hook"
RUN = "TESTBED_RUN_FOLDER"
FIRST_RANK = "TESTBED_FIRST_RANK"
TIMEOUT = "TESTBED_TIMEOUT_S"
BEGUN = "TESTBED_BEGUN"  # set if the run's events count already, regardless of the script

_interceptions: list[Interception] = []  # of this process: at most one, which lasts


def observed_environment(run: RunDir, rank: Rank, timeout_s: int) -> dict[str, str]:
    """Return the environment variables that `observe` reads, with the hook on PYTHONPATH.

    Args:
        run: the run folder for the records.
        rank: the first rank of the process that gets the environment.
        timeout_s: timeout in seconds of process groups that are made without one.
    """
    python_path = [str(HOOK)]
    if os.environ.get("PYTHONPATH"):
        python_path.append(os.environ["PYTHONPATH"])

    return {
        RUN: str(run.path),
        FIRST_RANK: str(rank.rank - rank.local_rank),
        TIMEOUT: str(timeout_s),
        "PYTHONPATH": os.pathsep.join(python_path),
    }


def observe() -> None:
    """Record this process's use of torch.distributed, and set the default timeout of groups.

    Raises:
        RuntimeError: the host has more ranks than the plan.
    """
    if _interceptions:
        return

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    ranks_per_host = int(os.environ["TESTBED_RANKS_PER_HOST"])
    if local_rank >= ranks_per_host:
        raise RuntimeError(
            f"testbed: LOCAL_RANK is {local_rank}, but a host of this run has {ranks_per_host} "
            "ranks: use --nproc-per-host"
        )

    rank = int(os.environ[FIRST_RANK]) + local_rank
    recorder = Recorder(RunDir(Path(os.environ[RUN])), rank)
    begin = _nothing if BEGUN in os.environ else recorder.begin
    interception = Interception(recorder.record, "script", begin)
    _interceptions.append(interception)
    atexit.register(interception.settle)
    set_default_timeout(timedelta(seconds=int(os.environ[TIMEOUT])))


def _nothing() -> None:
    return None
