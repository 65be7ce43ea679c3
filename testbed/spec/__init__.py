"""Turn files and settings of a user into validated topologies, workloads and experiments."""
