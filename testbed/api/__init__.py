"""Runs, sweeps and deployments from Python, with typed results.

Every name of this module is also a name of the package, as in ``testbed.run(...)``.

    import testbed

    run = testbed.run("two-sites", "collectives", isolation="process", seed=3)
    print(run.collectives.select("op", "bytes", "time_us", "bound_us"))
    print(run.operations.group_by("op").len())

Errors are exceptions with the same messages as on the command line: `testbed.InputError` for a
wrong argument, `testbed.MachineError` if this machine lacks a requirement, `testbed.RunError` and
`testbed.GuestLost` if a run fails. All are subclasses of `testbed.TestbedError`. Ctrl-C raises
KeyboardInterrupt after the folder of the run or the sweep has reached its final state.
"""

from testbed.api.completed_run import Run as Run, open_run as open_run
from testbed.api.networks import DeployedNetwork as DeployedNetwork, deploy as deploy
from testbed.api.prepared_run import (
    PreparedRun as PreparedRun,
    default_folder as default_folder,
    prepare as prepare,
    script_workload as script_workload,
)
from testbed.api.runs import Advice as Advice, advise as advise, run as run
from testbed.api.searches import Found as Found, find as find, open_find as open_find
from testbed.api.sweeps import Sweep as Sweep, open_sweep as open_sweep, sweep as sweep
from testbed.execution.progress import RunProgress as RunProgress
from testbed.sweep.answers import Answer as Answer
from testbed.sweep.progress import PointProgress as PointProgress
