"""Runs a script of the user's own."""
