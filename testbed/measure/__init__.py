"""What is measured beside the workers: link counters and packet captures."""
