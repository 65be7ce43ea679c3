"""Simulate a TCP connection that the send buffer limits, as in docs/accuracy.md.

usage: send_buffer.py [COPY_RATE in GB/s]; without it, copying takes no time

Linux lets a program that has filled its send buffer write again when a third of the buffer is free.
The program then fills the buffer: at once, or as fast as it can copy while acknowledgements arrive.
There is no loss. One acknowledgement stands for two packets. The window doubles with each round
trip until the receiver's window limits it.
"""

import math
import sys
from collections import deque

DATA_BYTES = 1408
RECEIVE_WINDOW = 3 * 2**20 // DATA_BYTES  # packets
SEND_BUFFER = 4_134_000 // DATA_BYTES  # packets: 4 MiB less the overhead of bursts of 64 KiB
FIRST_WINDOW = 10  # packets
PACKET_S = DATA_BYTES * 8 / 6.9e9  # at the rate of the NIC
SECONDS = 10
PUBLISHED_MBPS = {
    13.85: 1808,
    15.3: 1520,
    49.8: 472,
    103.1: 210,
    131.5: 163,
    157.1: 133,
    176.2: 118,
    253.1: 76,
    272.0: 69,
}  # by RTT in ms


class Connection:
    """A connection: packets written, sent, delivered and acknowledged."""

    def __init__(self, rtt_s: float, copy_rate: float) -> None:
        self.rtt_s = rtt_s
        self.copy_rate = copy_rate  # bytes/s
        self.now_s = self.free_s = 0.0  # the clock; when the NIC is free
        self.window = FIRST_WINDOW
        self.sent = self.delivered = self.unconfirmed = self.acknowledged = 0
        self.arrivals: deque[float] = deque()
        self.acknowledgements: deque[tuple[float, int]] = deque()
        self.written = 0
        self.copied_s: float | None = None  # when the program has copied; None: it waits
        self.write()

    def write(self) -> None:
        """Fill the buffer, or wait if it is full."""
        room = self.acknowledged + SEND_BUFFER - self.written
        if not room:
            self.copied_s = None
            return
        self.written += room
        self.copied_s = self.now_s + room * DATA_BYTES / self.copy_rate
        self.send()

    def send(self) -> None:
        """Send what the windows allow."""
        limit = self.acknowledged + min(RECEIVE_WINDOW, self.window)
        while self.sent < min(self.written, limit):
            self.free_s = max(self.free_s, self.now_s) + PACKET_S
            self.sent += 1
            self.arrivals.append(self.free_s + self.rtt_s / 2)

    def arrive(self) -> None:
        """Deliver a packet, and acknowledge every second one, and the last."""
        self.arrivals.popleft()
        self.delivered += 1
        self.unconfirmed += 1
        if self.unconfirmed == 2 or not self.arrivals:
            self.acknowledgements.append((self.now_s + self.rtt_s / 2, self.delivered))
            self.unconfirmed = 0

    def acknowledge(self) -> None:
        """Take an acknowledgement, and wake the program if a third of the buffer is free."""
        _at_s, packets = self.acknowledgements.popleft()
        if self.window <= 2 * (self.sent - self.acknowledged):
            self.window += packets - self.acknowledged
        self.acknowledged = packets
        waits = self.copied_s is None
        if waits and self.written - self.acknowledged <= 2 * SEND_BUFFER // 3:
            self.write()
        self.send()

    def run(self) -> float:
        """Return the rate in Mbit/s at which data arrive."""
        while self.now_s < SECONDS:
            copied_s = math.inf if self.copied_s is None else self.copied_s
            arrival_s = self.arrivals[0] if self.arrivals else math.inf
            answer_s = self.acknowledgements[0][0] if self.acknowledgements else math.inf
            self.now_s = min(copied_s, arrival_s, answer_s)
            if self.now_s == copied_s:
                self.write()
            elif self.now_s == arrival_s:
                self.arrive()
            else:
                self.acknowledge()
        return self.delivered * DATA_BYTES * 8 / SECONDS / 1e6


def main() -> None:
    """Print a row for each RTT."""
    copy_rate = float(sys.argv[1]) * 1e9 if len(sys.argv) > 1 else math.inf
    for rtt_ms, published in PUBLISHED_MBPS.items():
        mbps = Connection(rtt_ms / 1000, copy_rate).run()
        error = 100 * (mbps / published - 1)
        print(f"{rtt_ms:6} ms  published {published:4}  simulated {mbps:5.0f}  {error:+5.1f} %")


if __name__ == "__main__":
    main()
