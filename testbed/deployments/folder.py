"""The folder of a deployment, with everything about it: any command finds it, whatever became of
the terminal.

    plan.json   what stands; `set` keeps it up to date     spec.yaml    what was written, likewise
    alive       locked as long as the keeper lives         lease        a FIFO, open as long as
    someone uses it ready.json  the network stands (from the agent)        ended        why the
    keeper has ended, if it could tell requests/   see `testbed.deployments.mailbox`
    raw/ *.log   of the guest and the keeper

The kernel drops the lock with the keeper, however that ends, also in a reboot; so no process number
has to be trusted.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.plan.model import Clock, Frozen, Network
from testbed.runfolder.files import replace_text

State = Literal["starting", "running", "crashed", "gone"]


class LivePlan(Frozen):
    """What a deployment is. `cpu` of the host is where its guest runs."""

    name: str
    network: Network
    clock: Clock
    seed: int
    guest_memory_bytes: int
    cpu: int
    created_s: float


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
        """Names of all kernel-side nodes, and commands of the prompt: {"nodes", "commands"}."""
        return self.path / "ready.json"

    @property
    def ended(self) -> Path:
        return self.path / "ended"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

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
        """Process numbers on the host: {"keeper", "guest"}."""
        return self.path / "pids.json"

    @property
    def state(self) -> State:
        """starting, running; crashed: the guest has ended by itself; gone: its keeper was killed,
        or the machine.
        """
        if not is_locked(self.alive):
            return "crashed" if self.ended.exists() else "gone"
        return "running" if self.ready.exists() else "starting"

    @property
    def last_time_ns(self) -> int | None:
        """Unix time on the guest's clock at the end of the newest request."""
        try:
            return int(self.last_time.read_text())
        except (OSError, ValueError):
            return None

    def read_plan(self) -> LivePlan:
        """What it is."""
        return LivePlan.model_validate_json(self.plan.read_text())

    def write(self, path: Path, text: str) -> None:
        """Write a file so that a reader sees the old one or the whole new one."""
        replace_text(path, text)

    def why_ended(self) -> str:
        """What is known of an end that nobody asked for."""
        for file in (self.ended, self.log):  # the log is empty unless the keeper has failed
            with suppress(OSError):
                if text := file.read_text().strip():
                    return text
        return "its keeper was killed, or the machine was restarted"


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
