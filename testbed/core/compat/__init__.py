"""Patch private interfaces of other projects, each with the versions of the last check."""
