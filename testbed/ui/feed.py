"""Server-sent events: what is looked at once reaches every browser that looks at the same.

A feed consists of parts, each a JSON document under a name. A browser gets all parts when it
connects, and from then on those that have changed, and the names of those that are gone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

import polars as pl
from starlette.concurrency import run_in_threadpool

Parts = Mapping[str, str]  # JSON by name
Look = Callable[[], Parts]

LEAST_PAUSE_S = 0.5
PAUSES_PER_LOOK = 10  # the pause after a look is this many times as long as the look
ALIVE_S = 15.0  # without a change, a comment tells whether the browser is still there
READING_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    pl.exceptions.PolarsError,
)
PROBLEM = "problem"  # the part that says why a look failed


class LiveFeed:
    """The newest parts of one subject, looked at while at least one browser is connected."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._parts: Parts = {}
        self._version = 0
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self.readers = 0

    async def messages(self) -> AsyncGenerator[str, None]:
        """Yield messages in the format of server-sent events, until the feed is closed."""
        self.readers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._keep_looking())
        sent: Parts = {}
        version = 0
        try:
            while not self._is_closed:
                if version == self._version:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wait(version), ALIVE_S)
                if version == self._version:
                    yield ": nothing new\n\n"
                    continue
                version = self._version
                message = difference(sent, self._parts)
                sent = self._parts
                yield f"data: {message}\n\n"
        finally:
            self.readers -= 1
            if not self.readers:
                self._task.cancel()
                self._task = None

    async def close(self) -> None:
        """End the messages of all readers."""
        self._is_closed = True
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, version: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed or self._version != version)

    async def _keep_looking(self) -> None:
        while True:
            began = time.monotonic()
            parts = await run_in_threadpool(guarded, self._look)
            async with self._changed:
                if parts != self._parts or not self._version:  # the first look may find nothing
                    self._parts = parts
                    self._version += 1
                    self._changed.notify_all()
            took = time.monotonic() - began
            await asyncio.sleep(max(LEAST_PAUSE_S, PAUSES_PER_LOOK * took))


def guarded(look: Look) -> Parts:
    """Look, and return an explanation where the files that were read make no sense."""
    try:
        return look()
    except READING_ERRORS as error:
        return {PROBLEM: json.dumps(f"cannot read the files: {type(error).__name__}: {error}")}
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust; it has no class to import
            raise
        return {PROBLEM: json.dumps("cannot read the files: a table is damaged")}


def difference(sent: Parts, parts: Parts) -> str:
    """Return the message that turns `sent` into `parts`."""
    changed: list[str] = []
    for name, text in parts.items():
        if sent.get(name) != text:
            changed.append(f"{json.dumps(name)}: {text}")
    removed = [name for name in sent if name not in parts]
    return f'{{"changed": {{{", ".join(changed)}}}, "removed": {json.dumps(removed)}}}'


class Feeds:
    """The feeds that at least one browser reads, by name."""

    def __init__(self) -> None:
        self._feeds: dict[str, LiveFeed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: list[asyncio.Task[None]] = []

    def close(self) -> None:
        """End all messages; may be called by a handler of signals."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        for feed in self._feeds.values():
            self._closing.append(asyncio.create_task(feed.close()))

    async def messages(self, name: str, make_look: Callable[[], Look]) -> AsyncGenerator[str, None]:
        """Yield the messages of a feed, which is made if nobody reads it.

        Args:
            name: name of the feed.
            make_look: makes the function that looks at the feed's subject.
        """
        self._loop = asyncio.get_running_loop()
        feed = self._feeds.get(name)
        if feed is None:
            feed = LiveFeed(make_look())
            self._feeds[name] = feed
        try:
            async with aclosing(feed.messages()) as messages:
                async for message in messages:
                    yield message
        finally:
            if not feed.readers:
                self._feeds.pop(name, None)
