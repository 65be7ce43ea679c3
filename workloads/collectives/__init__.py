"""Workload that times collective operations."""

USES_ALL_OF_TORCH = False
