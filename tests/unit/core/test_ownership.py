"""Locks of owners whose files somebody else has replaced."""

import os
from pathlib import Path

import pytest

from testbed.core.ownership import claim, is_claimed, owner_of


def test_a_claim_lasts_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    assert not is_claimed(path)
    with claim(path):
        assert is_claimed(path)
        owner = owner_of(path)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert not is_claimed(path)


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_not_a_file_is_no_lock(kind: str, tmp_path: Path) -> None:
    """Opening a FIFO would wait for ever."""
    path = tmp_path / "alive"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    assert not is_claimed(path)
    assert owner_of(path) is None
    with pytest.raises(OSError):
        claim(path)
    assert not (tmp_path / "elsewhere").exists()
