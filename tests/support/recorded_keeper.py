"""The keeper of a deployment whose guest is an ordinary process that answers every request at once.

usage: python -m tests.support.recorded_keeper FOLDER

Everything else is the testbed's: the folder, the lock, leases, requests, signals, the clean-up.
With the variable KEEPER_FAULT (a fault and the number of a write: EIO-1), a write of the keeper
fails.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from testbed.core import linux
from testbed.core.leftovers import Kind, note
from testbed.deployments import keeper
from testbed.deployments.folder import Deployment, Ready
from testbed.deployments.requests import Reply
from testbed.execution.guest_code import Code
from testbed.guest.boot import Guest, GuestSpec
from tests.support.faults import Writes, strike_with

KEEPER = "tests.support.recorded_keeper"
FAULT = "KEEPER_FAULT"
TIME_NS = 1_735_689_600 * 10**9


@contextmanager
def start_guest(spec: GuestSpec) -> Iterator[Guest]:
    with note(Kind.RUN, spec.writable):
        deployment = Deployment(spec.writable)
        process: Any = get_context("fork").Process(target=be_guest, args=[deployment])
        process.start()
        try:
            yield Guest(process, spec.writable, spec.clock_file)
        finally:
            process.kill()
            process.join()


def be_guest(deployment: Deployment) -> None:
    """Answer requests until killed, or until the keeper ends."""
    linux.die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    deployment.write_last_time_ns(TIME_NS)
    deployment.write_ready(Ready(nodes=[], commands=[]))
    answered: set[str] = set()
    while True:
        for exchange in deployment.channel.exchanges():
            if exchange.identifier not in answered:
                answered.add(exchange.identifier)
                with suppress(OSError):  # the sender has removed the request
                    exchange.answer(Reply(status=0, time_ns=TIME_NS))
        time.sleep(0.002)


def be_keeper(folder: Path) -> int:
    changed = vars(keeper)
    changed["start_guest"] = start_guest
    changed["code_for_guests"] = lambda: Code([], {}, [])
    if FAULT in os.environ:
        fault, _dash, number = os.environ[FAULT].partition("-")
        sys.addaudithook(Writes(folder, strike_with(fault), int(number)))
    return keeper.main(str(folder))


if __name__ == "__main__":
    sys.exit(be_keeper(Path(sys.argv[1])))
