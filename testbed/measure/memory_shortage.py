"""Find out whether a kernel was short of memory for packets.

A kernel that is short of memory drops packets and stops the growth of TCP's buffers, and a run then
measures the memory instead of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# Counters of TCP (include/uapi/linux/snmp.h): a socket got no memory for data to send, a connection
# ended for lack of memory, a packet was dropped because its memory came from the last reserves.
SHORTAGES = ("TCPMemoryPressures", "TCPAbortOnMemory", "PFMemallocDrop")


def shortages(pids: Mapping[str, int]) -> dict[str, int]:
    """Return how often the kernel had no memory for packets, by host, without zeros.

    Args:
        pids: a process in the network namespace of each host, by host.
    """
    counts: dict[str, int] = {}
    for host, pid in pids.items():
        try:
            counters = parse_netstat(Path("/proc", str(pid), "net/netstat").read_text())
        except OSError:  # the host has ended
            continue

        count = sum(counters.get(name, 0) for name in SHORTAGES)
        if count:
            counts[host] = count

    return counts


def parse_netstat(text: str) -> dict[str, int]:
    """Return the counters of TCP in /proc/net/netstat, by name."""
    lines = [line for line in text.splitlines() if line.startswith("TcpExt:")]
    head, row = lines
    _prefix, *names = head.split()
    _prefix, *values = row.split()
    counters: dict[str, int] = {}
    for name, value in zip(names, values, strict=True):
        counters[name] = int(value)
    return counters
