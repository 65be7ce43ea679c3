"""Events that are refused."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from tests.support.events import topology

# case: event, beginning of the message
WRONG: dict[str, tuple[str, str]] = {
    "an unknown link": (
        "{at: 1 s, links: a-d, down: true}",
        "mine.yaml:8, events.0.links: there is no link, conduit or datacenter 'a-d'\n"
        "  nearest: a-b, a-c",
    ),
    "nothing": (
        "{at: 1 s, links: a-b}",
        "mine.yaml:8, events.0: this event changes nothing\n  write down: true",
    ),
    "no unit": (
        "{at: 1, links: a-b, down: true}",
        "mine.yaml:8, events.0.at: the time 1 has no unit",
    ),
    "no time": ("{links: a-b, down: true}", "mine.yaml:8, events.0.at: it is missing"),
    "an unknown key": (
        "{at: 1 s, to: 2 s, links: a-b, down: true}",
        "mine.yaml:8, events.0.to: unknown key",
    ),
    "every alone": (
        "{at: 1 s, duration: 1 s, links: a-b, down: true, every: 2 s}",
        "mine.yaml:8, events.0.every: every and times",
    ),
    "again without an end": (
        "{at: 1 s, links: a-b, down: true, every: 2 s, times: 2}",
        "mine.yaml:8, events.0.every: an event to the end of the run cannot occur again",
    ),
    "too long to occur again": (
        "{at: 1 s, duration: 3 s, links: a-b, down: true, every: 2 s, times: 2}",
        "mine.yaml:8, events.0.duration: an occurrence lasts longer than it is to the next one",
    ),
    "no duration": (
        "{at: 1 s, duration: 0, links: a-b, down: true}",
        "mine.yaml:8, events.0.duration: a dur",
    ),
    "a direction of many links": (
        "{at: 1 s, links: all, rate: {a->b: 1 Gbit/s}}",
        "mine.yaml:8, events.0.rate: values per direction need an event of one link",
    ),
    "a direction of another link": (
        "{at: 1 s, links: a-b, rate: {a->c: 1 Gbit/s}}",
        "mine.yaml:8, events.0.rate.a->c: 'a->c' is no direction of this link\n"
        "  they are a->b and b->a",
    ),
    "a jitter above the delay": (
        "{at: 1 s, links: a-b, jitter: 11 ms}",
        "mine.yaml:7, events: at 1 s the jitter of a->b exceeds its delay",
    ),
    "too many": (
        "{at: 1 s, duration: 1 ms, links: a-b, down: true, every: 1 s, times: 5001}",
        "mine.yaml:7, events: these are up to 10002 changes; a run has at most 10000",
    ),
    "no trace": (
        "{at: 1 s, links: a-b, trace: none.csv}",
        "mine.yaml:8, events.0.trace: the trace none.csv cannot be read: No such file or directory",
    ),
    "an unknown host": (
        "{at: 1 s, hosts: a-h1, crash: host}",
        "mine.yaml:8, events.0.hosts: there is no host or datacenter 'a-h1'\n  nearest: a-h0",
    ),
    "a host to which nothing happens": (
        "{at: 1 s, hosts: a}",
        "mine.yaml:8, events.0.hosts: this event does nothing to its hosts\n  write",
    ),
    "an unknown crash": (
        "{at: 1 s, hosts: a, crash: hard}",
        "mine.yaml:8, events.0.crash: 'hard' is not one of",
    ),
    "a link that crashes": (
        "{at: 1 s, links: a-b, crash: host}",
        "mine.yaml:8, events.0.crash: hosts crash, not links\n  write hosts",
    ),
    "hosts and links": (
        "{at: 1 s, hosts: a, links: a-b, crash: host}",
        "mine.yaml:8, events.0: an event is about links, hosts or a",
    ),
    "settings of hosts": (
        "{at: 1 s, hosts: a, crash: host, loss: 1 %}",
        "mine.yaml:8, events.0: settings of links need links",
    ),
    "a host that has crashed already": (
        "{at: 1 s, hosts: a, crash: host}\n  - {at: 2 s, hosts: all, crash: ranks}",
        "mine.yaml:7, events: at 2 s a-h0 crashes, which has crashed before and is not back",
    ),
    "a host that is never up": (
        "{at: 1 s, duration: 1 s, every: 1 s, times: 3, hosts: a, crash: host}",
        "mine.yaml:7, events: at 2 s two things happen to a-h0 at once",
    ),
    "a transfer from nowhere": (
        "{at: 1 s, transfer: {from: d, to: a, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer.from: there is no host or datacenter 'd'",
    ),
    "a transfer to itself": (
        "{at: 1 s, transfer: {from: a-h0, to: a, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer: a host would send to",
    ),
    "a transfer without a size": (
        "{at: 1 s, transfer: {from: a, to: b}}",
        "mine.yaml:8, events.0.transfer.size: it is missing",
    ),
    "a transfer with an unknown key": (
        "{at: 1 s, transfer: {from: a, to: b, sise: 1 MB, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer.sise: unknown key 'sise'\n  nearest: size",
    ),
    "a transfer that lasts": (
        "{at: 1 s, duration: 1 s, transfer: {from: a, to: b, size: 1 MB}}",
        "mine.yaml:8, events.0: a transfer has no other settings",
    ),
    "a trace and more": (
        "{at: 1 s, links: a-b, trace: good.csv, loss: 1 %}",
        "mine.yaml:8, events.0.trace: an event has a trace or",
    ),
}
WRONG_TRACES: dict[str, tuple[str, str]] = {
    "an unknown column": (
        "time,rte\n0 s,1 Gbit/s\n",
        "has an unknown column 'rte'\n  nearest: rate",
    ),
    "no time": ("rate\n1 Gbit/s\n", "does not name time and settings, each once"),
    "no rows": (
        "time,rate\n",
        "has no line below its head\n  write a head such as time,rate,delay",
    ),
    "a wrong unit": (
        "time,rate\n0 s,1 Gbit/s\n1 s,3 km\n",
        "line 3 of the trace bad.csv: '3 km' is not a rate",
    ),
    "a short line": ("time,rate\n0 s\n", "line 2 of the trace bad.csv has 1 cells, its head has 2"),
    "not in order": (
        "time,rate\n1 s,1 Gbit/s\n\n1 s,2 Gbit/s\n",
        "line 4 of the trace bad.csv is not later than",
    ),
    "no truth": (
        "time,down\n1 s,maybe\n",
        "line 2 of the trace bad.csv: 'maybe' is not true or false",
    ),
}


def refusal(tmp_path: Path, event: str) -> str:
    with pytest.raises(InputError) as caught:
        topology(tmp_path, event)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("case", WRONG)
def test_wrong_events(tmp_path: Path, case: str) -> None:
    (tmp_path / "good.csv").write_text("time,rate\n0 s,1 Gbit/s\n")
    event, text = WRONG[case]
    assert refusal(tmp_path, event).startswith(text)


@pytest.mark.parametrize("case", WRONG_TRACES)
def test_wrong_traces(tmp_path: Path, case: str) -> None:
    text, expected = WRONG_TRACES[case]
    (tmp_path / "bad.csv").write_text(text)
    assert expected in refusal(tmp_path, "{at: 1 s, links: a-b, trace: bad.csv}")
