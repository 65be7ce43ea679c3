"""Turn the raw records of a run folder into tables and a summary."""
