"""Turn an experiment into many runs, carried out side by side, and into tables and a page."""

# Environment variable with the process number of the sweep that a fork server belongs to.
OWNER_VARIABLE = "TESTBED_SWEEP_PID"
