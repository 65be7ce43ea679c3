"""Workloads: one folder per workload, with the settings, the script of a rank, and its modules."""
