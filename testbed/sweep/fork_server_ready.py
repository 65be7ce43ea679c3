"""The last import of a sweep's fork server, which warms up page generation for all points.

The first page in a process takes 0.5 s more than later ones. The server spends that time while the
first guests boot.
"""

import gc
from contextlib import suppress

from testbed.plan.resolve import resolve
from testbed.report.page import warm_up
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

with suppress(Exception):  # the points will hit the same error and report it
    warm_up(resolve(Topology.load("two-sites"), load_workload("collectives")))
gc.freeze()  # otherwise a collection in a point's process would copy every shared page
gc.enable()
