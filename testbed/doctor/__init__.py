"""Report the capabilities of this machine, the reason for each missing one, and the remedy."""
