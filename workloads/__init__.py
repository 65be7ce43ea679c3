"""The workloads: a folder each, with its settings, its script and its summary."""
