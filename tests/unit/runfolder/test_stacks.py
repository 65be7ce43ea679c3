"""Which call of a stack is the user's."""

from pathlib import Path

import testbed
from testbed.runfolder.stacks import PACKAGES, Frame, RankStacks


def test_packages_are_those_of_the_tree() -> None:
    folder = Path(testbed.__file__).parent
    assert list(PACKAGES) == sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def test_a_script_in_a_clone_named_testbed_is_the_users() -> None:
    """Innermost first: the testbed's own call, the user's, and what started the script."""
    clone = "/home/ada/testbed"
    frames = (
        Frame(f"{clone}/testbed/workers/dispatcher.py", 10, "__torch_function__"),
        Frame(f"{clone}/experiments/train.py", 20, "step"),
        Frame(f"{clone}/testbed/workers/rank.py", 30, "main"),
    )
    stacks = RankStacks(rank=0, host="west-0", state="python is busy", threads=(frames,))
    assert stacks.place == frames[1]
