"""Take link counters, packet captures and clock health of a run, sampled in the background."""
