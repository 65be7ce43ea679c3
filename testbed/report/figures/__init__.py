"""Turn the tables of a run into plotly figures for the run's page."""
