"""What a resident guest is asked to do: the requests and replies of its channel."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from testbed.guest.channel import Channel

READY = "ready"  # a file of the resident guest's folder: the guest waits for its first order


class RunOrder(BaseModel):
    """An order to carry out the plan in a run folder."""

    run_folder: str


class RunReply(BaseModel):
    """The exit status of an order."""

    status: int


def orders_of(folder: Path) -> Channel[RunOrder, RunReply]:
    """Give the channel of the resident guest of `folder`."""
    return Channel(folder / "orders", RunOrder, RunReply)
