"""One experiment, many runs: `grid` makes the plans, `local` and `cluster` carry them out, `results` gathers them."""

STARTER = "TESTBED_SWEEP_PID"  # of the environment: the process that a sweep's fork server has to end with
