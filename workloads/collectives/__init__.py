"""Times collective operations."""
