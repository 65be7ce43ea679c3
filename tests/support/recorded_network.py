"""The program `testbed`, whose deployed networks need no guest (`tests.support.recorded_keeper`).

usage: python -m tests.support.recorded_network WORD...    as `testbed WORD...`
"""

from testbed.deployments import service
from tests.support import recorded_keeper


def use_recorded_keeper() -> None:
    """Make the deployments of this process recorded ones."""
    changed = vars(service)
    changed["KEEPER"] = recorded_keeper.KEEPER
    changed["require_deployment"] = lambda: None


if __name__ == "__main__":
    use_recorded_keeper()
    from testbed.__main__ import main

    main()
