"""Resolve a topology, a workload and options into a `Plan`, a run in base units."""
