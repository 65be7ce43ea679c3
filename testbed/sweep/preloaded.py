"""Imported by multiprocessing's fork server, last of all.

What any point's page takes besides its own figures, 0.5 s for the first one in a process, is done
once.
"""

import gc
from contextlib import suppress

from testbed.plan.resolve import resolve
from testbed.report.page import warm_up
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

with suppress(Exception):  # which the points will meet again, and tell
    warm_up(resolve(Topology.load("two-sites"), load_workload("collectives")))
gc.freeze()  # a collection in a point's process would look through all of it, and so copy it
gc.enable()
