"""The folder of a deployment: any command finds the deployment by it.

    plan.json    what stands; `set` keeps it up to date
    spec.yaml    the topology as written; `set` keeps it up to date
    alive        locked as long as the keeper lives
    lease        a FIFO, open as long as someone uses the network
    ready.json   the network stands (from the agent)
    pids.json    process numbers of the keeper and the guest
    ended        why the keeper has ended, if the keeper could say so
    requests/    requests to the guest (see `testbed.deployments.requests`)
    raw/         the guest's clock
    *.log        of the guest and the keeper

The kernel drops the lock with the keeper, however the keeper ends, and with a restart of the
machine. So no process number has to be trusted.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from testbed.deployments.requests import Reply, Request, requests_of
from testbed.guest.channel import Channel
from testbed.plan.model import Clock, Frozen, Network
from testbed.runfolder.files import replace_text

FORMAT: Literal[1] = 1  # of the JSON files of a deployment
State: TypeAlias = Literal["starting", "running", "crashed", "gone"]


class DeploymentPlan(Frozen):
    """plan.json: what stands, and how.

    Attributes:
        format: the number of the file's format.
        name: as given by the user.
        network: the network with its present settings.
        clock: the guest's clock.
        seed: of random choices in the network.
        guest_memory_bytes: memory of the guest.
        cpu: the host's CPU on which the guest runs.
        created_s: Unix seconds of the deployment.
    """

    format: Literal[1] = FORMAT
    name: str
    network: Network
    clock: Clock
    seed: int
    guest_memory_bytes: int
    cpu: int
    created_s: float


class Ready(Frozen):
    """ready.json: the kernel's names of all nodes, and the commands of the prompt."""

    format: Literal[1] = FORMAT
    nodes: list[str]
    commands: list[str]


class Pids(Frozen):
    """pids.json: process numbers on the host; None where there is no such process yet."""

    format: Literal[1] = FORMAT
    keeper: int | None = None
    guest: int | None = None


@dataclass(frozen=True)
class Deployment:
    """A deployment by its folder, which may be about to vanish."""

    path: Path

    @property
    def name(self) -> str:
        """As given by the user."""
        return self.path.name

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def spec(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def alive(self) -> Path:
        return self.path / "alive"

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def ready(self) -> Path:
        return self.path / "ready.json"

    @property
    def ended(self) -> Path:
        return self.path / "ended"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

    @property
    def raw(self) -> Path:
        return self.path / "raw"

    @property
    def console(self) -> Path:
        return self.path / "console.log"

    @property
    def log(self) -> Path:
        return self.path / "keeper.log"

    @property
    def last_time(self) -> Path:
        return self.path / "last-time"

    @property
    def pids(self) -> Path:
        return self.path / "pids.json"

    @property
    def channel(self) -> Channel[Request, Reply]:
        """The requests to the guest."""
        return requests_of(self.requests)

    @property
    def state(self) -> State:
        """What the deployment does.

        crashed: the guest has ended by itself; gone: the keeper was killed, or the machine was
        restarted.
        """
        if is_locked(self.alive):
            return "running" if self.ready.exists() else "starting"
        return "crashed" if self.ended.exists() else "gone"

    def why_ended(self) -> str:
        """Say what is known of an end that nobody asked for."""
        for file in (self.ended, self.log):  # the log is empty unless the keeper has failed
            with suppress(OSError):
                text = file.read_text().strip()
                if text:
                    return text
        return "its keeper process was killed, or the machine was restarted"

    def read_last_time_ns(self) -> int | None:
        """Read Unix time on the guest's clock at the end of the newest request."""
        try:
            return int(self.last_time.read_text())
        except (OSError, ValueError):
            return None

    def write_last_time_ns(self, time_ns: int) -> None:
        """Write Unix time on the guest's clock at the end of a request."""
        replace_text(self.last_time, str(time_ns))

    def read_plan(self) -> DeploymentPlan:
        """Read what stands.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not a plan, or is of another version of the testbed.
        """
        return DeploymentPlan.model_validate_json(self.plan.read_text())

    def write_plan(self, plan: DeploymentPlan) -> None:
        """Write what stands."""
        replace_text(self.plan, plan.model_dump_json(indent=1) + "\n")

    def read_ready(self) -> Ready:
        """Read what the agent has said of the network.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is of another version of the testbed.
        """
        return Ready.model_validate_json(self.ready.read_text())

    def write_ready(self, ready: Ready) -> None:
        """Write that the network stands."""
        replace_text(self.ready, ready.model_dump_json())

    def read_pids(self) -> Pids:
        """Read the process numbers; unknown ones are None."""
        try:
            return Pids.model_validate_json(self.pids.read_text())
        except (OSError, ValueError):
            return Pids()

    def write_pids(self, pids: Pids) -> None:
        """Write the process numbers."""
        replace_text(self.pids, pids.model_dump_json())


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on the file `path`."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
