"""Files that grow while a run is in progress, and files that appear as a whole."""

import os
import tracemalloc
from pathlib import Path

from testbed.runfolder.files import MOST_AT_A_TIME, FollowedFile, last_lines


def test_each_line_is_returned_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    followed = FollowedFile(path)
    assert followed.new_lines() == []
    path.write_bytes(b"one\ntw")
    assert followed.new_lines() == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\nthree\nfo")
    assert followed.new_lines() == [b"two", b"three"]
    assert followed.rest() == b"fo"
    assert followed.new() == followed.rest() == b""


def test_parts_with_other_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\nend\nb\nend\nc\n")
    assert FollowedFile(path, ends=[b"end\n"]).new() == b"a\nend\nb\nend\n"
    assert FollowedFile(path, ends=[b"end\n", b"\n"]).new() == path.read_bytes()


def test_a_line_may_be_longer_than_what_is_read_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123456\n7\n")
    followed = FollowedFile(path, most_bytes=4)
    parts = [followed.new_lines() for _ in range(4)]
    assert parts == [[], [b"123456"], [b"7"], []]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert FollowedFile(tmp_path / "link").new() == b""


def test_a_file_of_any_size_takes_little_memory(tmp_path: Path) -> None:
    """A terabyte without content, as a rank can make of its log: some MiB are read at a time."""
    path = tmp_path / "log"
    path.write_bytes(b"first\n")
    followed = FollowedFile(path)
    assert followed.new_lines() == [b"first"]
    with path.open("ab") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    tracemalloc.start()
    for _look in range(3):
        assert followed.new() == b""
    assert last_lines(path, 1) == "last"
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * MOST_AT_A_TIME  # what is read, and what is left from before, each twice
