"""Turn a running network into records: link counters, packet captures and clock health."""
