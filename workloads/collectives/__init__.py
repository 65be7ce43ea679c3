"""Times collective operations."""

USES_ALL_OF_TORCH = False
