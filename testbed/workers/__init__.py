"""Start the ranks of a plan on their hosts in the built network, and record their operations."""
