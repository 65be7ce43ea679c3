"""Define the requests and replies of a resident guest's channel."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from testbed.guest.channel import Channel

READY = "ready"  # file in the resident guest's folder: the guest accepts orders


class RunOrder(BaseModel):
    """A request to carry out the plan in a run folder."""

    run_folder: str


class RunReply(BaseModel):
    """The exit status of a run."""

    status: int


def orders_of(folder: Path) -> Channel[RunOrder, RunReply]:
    """Return the channel of the resident guest in `folder`."""
    return Channel(folder / "orders", RunOrder, RunReply)
