"""Define the requests and replies of the channel to a deployment's guest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from testbed.guest.channel import Channel, Exchange
from testbed.plan.model import Frozen, Network

# Streams of the guest's output for a request.
STDOUT = "out"
STDERR = "err"
# Signals by which the sender asks to end a request: SIGINT, SIGKILL.
INTERRUPT = "interrupt"
KILL = "kill"


class Request(Frozen):
    """A request to a guest.

    - exec: run the command `words` on `node`, named as people name nodes. With `has_input` the
      sender writes the command's input (see `testbed.deployments.input`); otherwise the input is
      empty. With `terminal`, a kind of terminal as in the variable TERM, the command has a
      terminal, whose output is the stream STDOUT.
    - prompt: carry out the line `words[0]` as Mininet's prompt does.
    - set: change the links that differ in `network`.
    - verify: measure the network, only its round trips if `quick`, only the rates of its fastest
      link if `fastest`; prints a JSON line per check.
    """

    kind: Literal["exec", "prompt", "set", "verify"]
    node: str = ""
    words: tuple[str, ...] = ()
    has_input: bool = False
    terminal: str = ""
    network: Network | None = None
    quick: bool = False
    fastest: bool = False


class Reply(Frozen):
    """Outcome of a request: exit status as in a shell, and Unix ns on the guest's clock.

    `warnings` say why the command's traffic may mislead.
    """

    status: int
    time_ns: int
    warnings: tuple[str, ...] = ()


RequestExchange: TypeAlias = Exchange[Request, Reply]


def requests_of(folder: Path) -> Channel[Request, Reply]:
    """Return the channel of a deployment in `folder`, its folder of requests."""
    return Channel(folder, Request, Reply)
