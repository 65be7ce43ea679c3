"""One module for each workload's settings; a subclass of `testbed.spec.workload.Workload` is found by being here."""
