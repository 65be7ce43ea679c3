"""Events that are refused."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from tests.support.events import topology

# case: event, beginning of the message
WRONG: dict[str, tuple[str, str]] = {
    "an unknown link": (
        "{at: 1 s, links: a-d, down: true}",
        "mine.yaml:8, events.0.links: unknown link, conduit or datacenter 'a-d'\n"
        "  nearest: a-b, a-c",
    ),
    "nothing": (
        "{at: 1 s, links: a-b}",
        "mine.yaml:8, events.0: the event changes nothing\n  add down: true, rate, delay, loss or "
        "another setting",
    ),
    "no unit": (
        "{at: 1, links: a-b, down: true}",
        "mine.yaml:8, events.0.at: the time 1 has no unit",
    ),
    "no time": ("{links: a-b, down: true}", "mine.yaml:8, events.0.at: required key is missing"),
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
        "mine.yaml:8, events.0.every: an event without a duration cannot repeat",
    ),
    "too long to occur again": (
        "{at: 1 s, duration: 3 s, links: a-b, down: true, every: 2 s, times: 2}",
        "mine.yaml:8, events.0.duration: the duration is longer than the interval between "
        "occurrences",
    ),
    "no duration": (
        "{at: 1 s, duration: 0, links: a-b, down: true}",
        "mine.yaml:8, events.0.duration: the duration must be greater than 0",
    ),
    "a direction of many links": (
        "{at: 1 s, links: all, rate: {a->b: 1 Gbit/s}}",
        "mine.yaml:8, events.0.rate: values per direction require an event with a single named "
        "link",
    ),
    "a direction of another link": (
        "{at: 1 s, links: a-b, rate: {a->c: 1 Gbit/s}}",
        "mine.yaml:8, events.0.rate.a->c: 'a->c' is not a direction of this link\n"
        "  directions: a->b and b->a",
    ),
    "a jitter above the delay": (
        "{at: 1 s, links: a-b, jitter: 11 ms}",
        "mine.yaml:7, events: at 1 s the jitter of a->b exceeds its delay",
    ),
    "too many": (
        "{at: 1 s, duration: 1 ms, links: a-b, down: true, every: 1 s, times: 5001}",
        "mine.yaml:7, events: too many changes: 10002 (at most 10000 in a run)",
    ),
    "no trace": (
        "{at: 1 s, links: a-b, trace: none.csv}",
        "mine.yaml:8, events.0.trace: cannot read the trace none.csv: No such file or directory",
    ),
    "an unknown host": (
        "{at: 1 s, hosts: a-h1, crash: host}",
        "mine.yaml:8, events.0.hosts: unknown host or datacenter 'a-h1'\n  nearest: a-h0",
    ),
    "a host to which nothing happens": (
        "{at: 1 s, hosts: a}",
        "mine.yaml:8, events.0.hosts: an event with hosts needs crash\n  add crash: ranks or "
        "crash: host",
    ),
    "an unknown crash": (
        "{at: 1 s, hosts: a, crash: hard}",
        "mine.yaml:8, events.0.crash: 'hard' is not one of",
    ),
    "a link that crashes": (
        "{at: 1 s, links: a-b, crash: host}",
        "mine.yaml:8, events.0.crash: crash applies only to hosts\n  use hosts instead of links, "
        "or down: true",
    ),
    "hosts and links": (
        "{at: 1 s, hosts: a, links: a-b, crash: host}",
        "mine.yaml:8, events.0: an event needs exactly one of links, hosts and transfer",
    ),
    "settings of hosts": (
        "{at: 1 s, hosts: a, crash: host, loss: 1 %}",
        "mine.yaml:8, events.0: link settings require links",
    ),
    "a host that has crashed already": (
        "{at: 1 s, hosts: a, crash: host}\n  - {at: 2 s, hosts: all, crash: ranks}",
        "mine.yaml:7, events: a-h0 crashes at 2 s, but is still down from an earlier crash",
    ),
    "a host that is never up": (
        "{at: 1 s, duration: 1 s, every: 1 s, times: 3, hosts: a, crash: host}",
        "mine.yaml:7, events: two events change a-h0 at 2 s",
    ),
    "a transfer from nowhere": (
        "{at: 1 s, transfer: {from: d, to: a, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer.from: unknown host or datacenter 'd'",
    ),
    "a transfer to itself": (
        "{at: 1 s, transfer: {from: a-h0, to: a, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer: source and target are the same host",
    ),
    "a transfer without a size": (
        "{at: 1 s, transfer: {from: a, to: b}}",
        "mine.yaml:8, events.0.transfer.size: required key is missing",
    ),
    "a transfer with an unknown key": (
        "{at: 1 s, transfer: {from: a, to: b, sise: 1 MB, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer.sise: unknown key 'sise'\n  nearest: size",
    ),
    "a transfer that lasts": (
        "{at: 1 s, duration: 1 s, transfer: {from: a, to: b, size: 1 MB}}",
        "mine.yaml:8, events.0: a transfer takes no duration and no link settings",
    ),
    "a trace and more": (
        "{at: 1 s, links: a-b, trace: good.csv, loss: 1 %}",
        "mine.yaml:8, events.0.trace: an event cannot have both a trace and link settings",
    ),
}
WRONG_TRACES: dict[str, tuple[str, str]] = {
    "an unknown column": (
        "time,rte\n0 s,1 Gbit/s\n",
        "has an unknown column 'rte'\n  nearest: rate",
    ),
    "no time": ("rate\n1 Gbit/s\n", "must name time and the settings, each once"),
    "no rows": (
        "time,rate\n",
        "has no rows\n  write a header such as time,rate,delay",
    ),
    "a wrong unit": (
        "time,rate\n0 s,1 Gbit/s\n1 s,3 km\n",
        "line 3 of the trace bad.csv: '3 km' is not a rate",
    ),
    "a short line": (
        "time,rate\n0 s\n",
        "line 2 of the trace bad.csv has 1 cells, the header has 2",
    ),
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
