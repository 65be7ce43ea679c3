"""Workload that runs a user's script."""

IN_PROCESS_GROUP = False  # the script makes its process groups
