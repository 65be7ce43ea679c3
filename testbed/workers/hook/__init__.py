"""Folder for PYTHONPATH whose `sitecustomize` records the Python processes of a user's script."""
