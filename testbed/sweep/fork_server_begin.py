"""The first import of a sweep's fork server, which makes the server end with the sweep.

Without this module the fork server would notice the end of the sweep, but take 0.7 s to tear down
its imported modules. The kernel therefore kills the server together with the sweep.
"""

import gc
import os
import signal

from testbed.core.linux import die_with_parent
from testbed.sweep import OWNER_VARIABLE

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

die_with_parent()
if os.environ.get(OWNER_VARIABLE) not in (None, str(os.getppid())):
    os._exit(1)  # the sweep ended before the death signal was set
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it reaches the sweep, which then ends the server
for _name in THREAD_VARIABLES:
    # Points run in parallel: more threads for small tables would only wait for a CPU.
    os.environ.setdefault(_name, "1")
gc.disable()  # until `fork_server_ready`: imported modules are never freed
