"""Access the folder of a deployment, by which every command finds the deployment.

    plan.json    the current network; `set` keeps the file up to date
    spec.yaml    the topology as written; `set` keeps the file up to date
    alive        locked as long as the keeper lives
    lease        a FIFO, open as long as someone uses the network
    ready.json   written by the agent once the network is ready
    pids.json    process ids of the keeper and the guest
    ended        why the keeper has ended, if the keeper could write the reason
    requests/    requests to the guest (see `testbed.deployments.requests`)
    raw/         the guest's clock
    *.log        logs of the guest and the keeper

The kernel releases the lock when the keeper ends, even after a kill or a restart of the machine, so
the state of a deployment does not depend on process ids.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from testbed.core.ownership import is_claimed
from testbed.deployments.requests import Reply, Request, requests_of
from testbed.guest.channel import Channel
from testbed.plan.model import Clock, Frozen, Network
from testbed.runfolder.files import last_lines, read_plain, replace_text

REASON_LINES = 100  # of a log that are shown
MAX_TIME_NS = 2**63 - 1  # of Linux
FORMAT: Literal[1] = 1  # version of the JSON files of a deployment
State: TypeAlias = Literal["starting", "running", "crashed", "gone"]


class DeploymentPlan(Frozen):
    """Content of plan.json: the current network and the settings of the guest.

    Attributes:
        format: version of the file format.
        name: the name given by the user.
        network: the network with its current settings.
        clock: the guest's clock.
        seed: seed of random choices in the network.
        guest_memory_bytes: memory of the guest.
        cpu: the host's CPU on which the guest runs.
        created_s: creation time of the deployment in Unix seconds.
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
    """Content of ready.json: the kernel's names of all nodes, and the commands of the prompt."""

    format: Literal[1] = FORMAT
    nodes: list[str]
    commands: list[str]


class Pids(Frozen):
    """Content of pids.json: process ids on the host; None where a process does not exist yet."""

    format: Literal[1] = FORMAT
    keeper: int | None = None
    guest: int | None = None


@dataclass(frozen=True)
class Deployment:
    """A deployment, identified by its folder, which another process may remove at any time."""

    path: Path

    @property
    def name(self) -> str:
        """Name given by the user."""
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
        """Channel of requests to the guest."""
        return requests_of(self.requests)

    @property
    def state(self) -> State:
        """Return the state of the deployment.

        crashed: the guest has ended unexpectedly; gone: the keeper was killed, or the machine was
        restarted.
        """
        if is_claimed(self.alive):
            return "running" if self.ready.exists() else "starting"
        return "crashed" if self.ended.exists() else "gone"

    def why_ended(self) -> str:
        """Return the known reason of an unexpected end."""
        for file in (self.ended, self.log):  # the log is empty unless the keeper has failed
            with suppress(OSError):
                text = last_lines(file, REASON_LINES).strip()
                if text:
                    return text
        return "its keeper process was killed, or the machine was restarted"

    def read_last_time_ns(self) -> int | None:
        """Return the guest's clock in Unix ns at the end of the newest request; None if unknown."""
        try:
            time_ns = int(read_plain(self.last_time))
        except (OSError, ValueError):
            return None
        return time_ns if 0 <= time_ns <= MAX_TIME_NS else None

    def write_last_time_ns(self, time_ns: int) -> None:
        """Write the guest's clock in Unix ns at the end of a request."""
        replace_text(self.last_time, str(time_ns))

    def read_plan(self) -> DeploymentPlan:
        """Read plan.json.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not a plan, or belongs to another version of the testbed.
        """
        return DeploymentPlan.model_validate_json(read_plain(self.plan))

    def write_plan(self, plan: DeploymentPlan) -> None:
        """Write plan.json."""
        replace_text(self.plan, plan.model_dump_json(indent=1) + "\n")

    def read_ready(self) -> Ready:
        """Read ready.json.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file belongs to another version of the testbed.
        """
        return Ready.model_validate_json(read_plain(self.ready))

    def write_ready(self, ready: Ready) -> None:
        """Write ready.json, which marks the network as ready."""
        replace_text(self.ready, ready.model_dump_json())

    def read_pids(self) -> Pids:
        """Read the process ids; unknown ids are None."""
        try:
            return Pids.model_validate_json(read_plain(self.pids))
        except (OSError, ValueError):
            return Pids()

    def write_pids(self, pids: Pids) -> None:
        """Write the process ids."""
        replace_text(self.pids, pids.model_dump_json())
