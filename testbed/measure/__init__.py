"""Measurements in the background of the workers: link counters and packet captures."""
