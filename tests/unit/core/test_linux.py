"""System calls: a refusal is an OSError with the call's name and the reason."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.core import linux

NO_SUCH_NAMESPACE = 1 << 30 | 1  # CLONE_NEWNET and a bit of the exit signal


@pytest.mark.parametrize(
    ("call", "reason", "text"),
    [
        (lambda: linux.setns(-1), errno.EBADF, "setns: Bad file descriptor"),
        (lambda: linux.unshare(NO_SUCH_NAMESPACE), errno.EINVAL, "unshare: Invalid argument"),
        (lambda: linux.prctl(-1), errno.EINVAL, "prctl: Invalid argument"),
    ],
    ids=["setns", "unshare", "prctl"],
)
def test_refused(call: Callable[[], None], reason: int, text: str) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == reason
    assert caught.value.strerror == text


def test_refused_mounts(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(OSError, match=f"^.*mount {missing}: "):
        linux.mount("none", missing, "tmpfs")
    with pytest.raises(OSError, match=f"^.*umount {missing}: "):
        linux.umount(missing)


def test_die_with_parent() -> None:
    """The signal that a child gets when its parent ends is set in the child alone."""
    pid = os.fork()
    if pid == 0:
        try:
            linux.die_with_parent()
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
