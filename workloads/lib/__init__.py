"""What several workloads use."""
