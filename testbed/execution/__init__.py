"""Execute a plan in a guest or on the host, and produce a complete run folder."""
