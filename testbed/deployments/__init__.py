"""Build a network from a topology and keep the network running for commands until destroyed."""
