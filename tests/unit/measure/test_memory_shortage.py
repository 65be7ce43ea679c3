"""Counters of a kernel that has no memory for packets, as Linux 6.12 writes them."""

import os
from pathlib import Path

import pytest

from testbed.measure.memory_shortage import SHORTAGES, parse_netstat, shortages

NETSTAT = """\
TcpExt: SyncookiesSent TCPMemoryPressures PFMemallocDrop TCPAbortOnMemory
TcpExt: 9 2 3 0
IpExt: InNoRoutes InTruncatedPkts
IpExt: 0 0
"""


def test_counters_of_tcp_by_name() -> None:
    counters = parse_netstat(NETSTAT)
    assert counters == {
        "SyncookiesSent": 9,
        "TCPMemoryPressures": 2,
        "PFMemallocDrop": 3,
        "TCPAbortOnMemory": 0,
    }


def test_this_kernel_has_the_counters() -> None:
    """Under these names, so that a shortage is not overlooked."""
    assert set(SHORTAGES) <= set(parse_netstat(Path("/proc/net/netstat").read_text()))


def test_hosts_with_shortages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has ended does not count."""
    gone = 2**22
    monkeypatch.setattr("testbed.measure.memory_shortage.parse_netstat", lambda text: {})
    assert shortages({"a": os.getpid(), "gone": gone}) == {}
    monkeypatch.setattr(
        "testbed.measure.memory_shortage.parse_netstat",
        lambda text: {"TCPMemoryPressures": 2, "PFMemallocDrop": 1, "other": 9},
    )
    assert shortages({"a": os.getpid(), "gone": gone}) == {"a": 3}
