"""A dashboard in the browser: runs, sweeps and deployments, as they happen (`testbed ui`)."""
