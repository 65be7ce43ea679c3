"""From the records of a run folder to its tables and its summary."""
