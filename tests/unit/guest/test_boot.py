"""How a guest is started: the folders that it sees."""

from pathlib import Path

from testbed.guest.boot import outermost


def test_folders_inside_others_are_left_out() -> None:
    """In any order; a name that only begins like another's is no part of it."""
    given = [Path(name) for name in ("/tmp/a/link", "/tmp/ab", "/tmp/a", "/tmp/a/b/c", "/tmp/d/e")]
    assert outermost(given) == [Path("/tmp/a"), Path("/tmp/ab"), Path("/tmp/d/e")]
    assert outermost(reversed(given)) == outermost(given)
