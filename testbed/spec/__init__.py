"""Validated topologies, workloads and experiments, from the files and settings of a user."""
