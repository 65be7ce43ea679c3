"""From tables of a run to figures of plotly, for the run's page."""
