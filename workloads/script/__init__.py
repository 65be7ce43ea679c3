"""Runs a script of the user's."""

IN_PROCESS_GROUP = False  # the script makes its process groups
