"""Patches of private interfaces of other projects, with the versions they were checked against."""
