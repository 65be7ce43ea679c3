"""Maps of a network."""
