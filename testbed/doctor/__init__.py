"""Looks at this machine; says what the testbed can do on it, why not the rest, and the remedy."""
