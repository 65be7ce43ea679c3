"""Several workloads on one network, at the same time."""
