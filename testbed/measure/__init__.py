"""Measure a run in the background: link counters, packet captures and clock health."""
