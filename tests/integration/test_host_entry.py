"""A rank's container process ends as the rank did: with its exit status, or by its signal."""

import os
import signal
import time

import pytest

from testbed.workers import host_entry


def end_of(child_ends_by: int) -> int:
    """The exit status of a process that waits for a child; negative: a signal."""
    pid = os.fork()
    if pid == 0:
        child = os.fork()
        if child == 0:
            if child_ends_by < 0:
                os.kill(os.getpid(), -child_ends_by)
                time.sleep(60)
            os._exit(child_ends_by)
        try:
            host_entry._end_as(child)
        finally:
            os._exit(99)
    _pid, wait_status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(wait_status)


@pytest.mark.parametrize("status", [0, 3, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1])
def test_ends_as_its_child(status: int) -> None:
    assert end_of(status) == status
