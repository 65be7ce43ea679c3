"""The channel to a resident guest: what one side writes is what the other reads."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from testbed.guest.channel import Channel


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    number: int


@pytest.fixture
def channel(tmp_path: Path) -> Channel[Question, Answer]:
    return Channel(tmp_path, Question, Answer)


def test_request_and_reply(channel: Channel[Question, Answer]) -> None:
    sent = channel.post(Question(text="how many?"))
    (received,) = channel.exchanges()
    assert received.request() == Question(text="how many?")
    assert received.sender == os.getpid()
    assert sent.reply() is None
    received.answer(Answer(number=3))
    assert sent.reply() == Answer(number=3)
    assert [exchange.identifier for exchange in channel.exchanges()] == [sent.identifier]


def test_stream_is_read_as_it_grows(channel: Channel[Question, Answer]) -> None:
    sent = channel.post(Question(text=""))
    (received,) = channel.exchanges()
    assert sent.read("out", 0) == b""
    received.write("out", b"one ")
    assert sent.read("out", 0) == b"one "
    received.write("out", b"two")
    assert sent.read("out", 4) == b"two"


def test_signal_arrives(channel: Channel[Question, Answer]) -> None:
    sent = channel.post(Question(text=""))
    (received,) = channel.exchanges()
    assert not received.is_signalled("interrupt")
    sent.signal("interrupt")
    assert received.is_signalled("interrupt")
    assert not received.is_signalled("kill")


def test_nothing_stays_of_a_removed_request(
    channel: Channel[Question, Answer], tmp_path: Path
) -> None:
    other = channel.post(Question(text="stays"))
    sent = channel.post(Question(text="goes"))
    sent.write("out", b"text")
    sent.signal("kill")
    sent.answer(Answer(number=1))
    sent.remove()
    assert [path.name for path in tmp_path.iterdir()] == [f"{other.identifier}.request"]


def test_damaged_reply_is_none(channel: Channel[Question, Answer], tmp_path: Path) -> None:
    sent = channel.post(Question(text=""))
    reply = tmp_path / f"{sent.identifier}.reply"
    reply.write_text('{"number": "many"}')
    assert sent.reply() is None
    reply.unlink()
    reply.symlink_to("/etc/passwd")
    assert sent.reply() is None
