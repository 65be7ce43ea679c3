"""Resolve a topology, a workload and options into a `Plan`, which holds a run in base units."""
