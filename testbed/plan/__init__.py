"""Resolve a topology, a workload and options into a `Plan`, which states a whole run in base units."""
