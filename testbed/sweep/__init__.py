"""One experiment, many runs: `grid` makes the plans, `local` and `cluster` carry them out, `results` gathers them."""
