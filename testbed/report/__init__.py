"""Turn a run folder into tables, figures, a timeline and one HTML page."""
