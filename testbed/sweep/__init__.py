"""One experiment, many runs: `grid` makes the plans, `local` and `cluster` carry them out,
`results` gathers them.
"""

# of the environment: the process that a sweep's fork server has to end with
STARTER = "TESTBED_SWEEP_PID"
