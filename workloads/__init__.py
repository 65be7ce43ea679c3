"""The workloads: a folder each, with settings, the script of a rank, and what the script needs."""
