"""Build a network from a topology and keep it up, for commands, until it is destroyed."""
