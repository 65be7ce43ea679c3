"""Carry out runs in sequence inside a resident guest, as ordered through testbed.guest.resident.

usage: python -m testbed.execution.inside_resident FOLDER

Each run is a fork of this process, which has imported the modules of a run already.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from testbed.execution import inside
from testbed.guest.orders import READY, RunReply, orders_of
from testbed.runfolder.files import replace_text
from testbed.runfolder.folder import RunDir
from testbed.workers.zygote import prepare_torch
from testbed.workers.zygote_warm import import_torch


def serve(folder: Path) -> NoReturn:
    """Carry out orders until the guest is ended.

    Without an order, the guest and its clock are paused.
    """
    import_torch()
    orders = orders_of(folder)
    replace_text(folder / READY, "")
    carried_out: set[str] = set()
    while True:
        for exchange in orders.exchanges():
            if exchange.identifier in carried_out:
                continue
            carried_out.add(exchange.identifier)
            order = exchange.request()
            status = _carry_out(RunDir(Path(order.run_folder)))
            exchange.answer(RunReply(status=status))


def _carry_out(run: RunDir) -> int:
    """Carry out a run in a child process, and return its exit status."""
    plan = run.read_plan()
    prepare_torch(plan.workers.workload)
    pid = os.fork()
    if pid == 0:
        console = os.open(run.console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(console, 1)
        os.dup2(console, 2)
        status = inside.main(str(run.path))
        inside.leave(status)
    _pid, wait_status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(wait_status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
