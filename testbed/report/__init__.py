"""From a run folder to tables, figures, a timeline and one HTML page; changes no measurement."""
