"""Patches of private interfaces of other projects, each with the versions that were checked."""
