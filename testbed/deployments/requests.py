"""What the guest of a deployment is asked to do: the requests and replies of its channel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from testbed.guest.channel import Channel, Exchange
from testbed.plan.model import Frozen, Network

# Streams of what the guest prints about a request.
STDOUT = "out"
STDERR = "err"
# Signals with which the sender asks for the end of a request: SIGINT, SIGKILL.
INTERRUPT = "interrupt"
KILL = "kill"


class Request(Frozen):
    """A request to a guest, by its kind.

    - exec: run the command `words` on `node`, which is a name that people use.
    - prompt: carry out the line `words[0]` as Mininet's prompt does.
    - set: change the links that differ in `network`.
    - verify: measure the network, only its round trips if `quick`; prints a JSON line per check.
    """

    kind: Literal["exec", "prompt", "set", "verify"]
    node: str = ""
    words: tuple[str, ...] = ()
    network: Network | None = None
    quick: bool = False


class Reply(Frozen):
    """How a request ended: exit status as a shell has it, and Unix ns on the guest's clock."""

    status: int
    time_ns: int


RequestExchange: TypeAlias = Exchange[Request, Reply]


def requests_of(folder: Path) -> Channel[Request, Reply]:
    """Give the channel of a deployment, by its folder of requests."""
    return Channel(folder, Request, Reply)
