"""TCP of hosts in base units: socket buffers, and packets per burst."""

from __future__ import annotations

from testbed.plan import model
from testbed.plan.paths import FirstHosts
from testbed.spec.topology import MAX_TCP_BUFFER, HostTcp

OFFLOAD_BYTES = 64 * 1024  # largest burst of a host with segmentation offload
LEAST_TCP_BUFFER = 16 * 2**20
TCP_BUFFER_BDPS = 4
BIT_NS_PER_BYTE_S = 8 * 10**9

# IPv4 and TCP with timestamps.
HEADER_BYTES = 20 + 20 + 12
# What the kernel counts for a sent burst (skb) besides its data: sk_buff, headers and shared info,
# as SO_MEMINFO of a sender in the guest tells.
BURST_OVERHEAD_BYTES = 960
# The kernel announces this many 256ths of a receive buffer, rounded down (tcp_measure_rcv_mss).
WINDOW_SHARES = 256

# The maxima in tcp_wmem and tcp_rmem of Linux with 4 GiB of memory or more (tcp_init).
LINUX_SEND_BUFFER = 4 * 2**20
LINUX_RECEIVE_BUFFER = 6 * 2**20
# Before Linux 6.6 a host announced half of its receive buffer (tcp_adv_win_scale=1).
LINUX_5_WINDOW = LINUX_RECEIVE_BUFFER // 2


def resolve_tcp(
    settings: HostTcp,
    packet_bytes: int,
    packets_per_skb: int,
    *,
    ecn: bool,
    auto_bytes: int,
) -> model.Tcp:
    """Return the TCP settings of hosts.

    Args:
        settings: the settings in the topology.
        packet_bytes: largest IP packet.
        packets_per_skb: packets per burst.
        ecn: whether a queue on the way marks packets.
        auto_bytes: size of an automatic buffer.
    """
    if settings.buffer == "linux":
        send_bytes, receive_bytes = LINUX_SEND_BUFFER, LINUX_RECEIVE_BUFFER
    elif settings.buffer == "linux-5":
        send_bytes = LINUX_SEND_BUFFER
        receive_bytes = receive_limit(LINUX_5_WINDOW, packet_bytes, packets_per_skb)
    elif settings.buffer == "auto":
        send_bytes = receive_bytes = auto_bytes
    else:
        send_bytes = receive_bytes = settings.buffer

    return model.Tcp(
        congestion_control=settings.congestion_control,
        ecn=ecn or settings.congestion_control == "dctcp",
        buffer_bytes=receive_bytes,
        send_buffer_bytes=send_limit(send_bytes, packet_bytes, packets_per_skb),
        slow_start_after_idle=settings.slow_start_after_idle,
        packets_per_skb=packets_per_skb,
    )


def packets_per_burst(offload: str, packet_bytes: int) -> int:
    """Return the number of packets per burst (skb) that a host sends.

    By default, the result is 1: queues and links hold, drop and delay single packets. A burst of 64
    KiB would be dropped whole by a full queue, and every transmitter would have to receive all of
    a burst before it sends the first packet.

    Args:
        offload: the setting: on, off or auto.
        packet_bytes: largest IP packet.
    """
    if offload == "on":
        return max(1, min(model.MOST_PACKETS_PER_SKB, OFFLOAD_BYTES // packet_bytes))
    return 1


def send_limit(buffer_bytes: int, packet_bytes: int, packets_per_skb: int) -> int:
    """Return the maximum in tcp_wmem with which a guest's host has as much data on the way.

    The kernel counts the overhead of each burst against the buffer. A real host hands over 64 KiB
    at a time and has little of it.

    Args:
        buffer_bytes: the maximum of a host with segmentation offload.
        packet_bytes: largest IP packet.
        packets_per_skb: packets per burst.
    """
    if packets_per_skb > 1:
        return buffer_bytes

    data_bytes = packet_bytes - HEADER_BYTES
    overhead = 1 + BURST_OVERHEAD_BYTES / data_bytes
    overhead_with_offload = 1 + BURST_OVERHEAD_BYTES / OFFLOAD_BYTES
    return round(buffer_bytes * overhead / overhead_with_offload)


def receive_limit(window_bytes: int, packet_bytes: int, packets_per_skb: int) -> int:
    """Return the maximum in tcp_rmem with which the guest's kernel announces at most a window.

    Args:
        window_bytes: the largest window.
        packet_bytes: largest IP packet.
        packets_per_skb: packets per burst.
    """
    data_bytes = packets_per_skb * (packet_bytes - HEADER_BYTES)
    shares = WINDOW_SHARES * data_bytes // (data_bytes + BURST_OVERHEAD_BYTES)
    return round(window_bytes * WINDOW_SHARES / shares)


def auto_tcp_buffer(network: model.Network) -> int:
    """Return the TCP buffer in bytes: 4 x the largest RTT x lowest rate of all host pairs.

    The result is from 16 MiB to 1 GiB. Where links change, their highest rates and delays count.
    """
    largest = 0  # bits x 10^9

    for state in network.extremes(rate=max, delay=max):
        paths = FirstHosts(state)
        for source, target in paths.pairs():
            rate_bps = min(
                source.nic_up.rate_bps,
                target.nic_down.rate_bps,
                paths.figures(source, target).rate_bps,
            )
            largest = max(largest, rate_bps * paths.rtt_ns(source, target))

    buffer_bytes = TCP_BUFFER_BDPS * largest // BIT_NS_PER_BYTE_S
    return min(MAX_TCP_BUFFER, max(LEAST_TCP_BUFFER, buffer_bytes))
