"""Workload that replays the communication of recorded traces."""

USES_ALL_OF_TORCH = False
