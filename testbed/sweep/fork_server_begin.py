"""The first module that a sweep's fork server imports: ties the server's life to the sweep's.

The fork server would notice the end of the sweep by itself, but would then take 0.7 s to tear down
everything it has imported. So the kernel kills the server together with the sweep.
"""

import gc
import os

from testbed.core.linux import die_with_parent
from testbed.sweep import OWNER_VARIABLE

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

die_with_parent()
if os.environ.get(OWNER_VARIABLE) not in (None, str(os.getppid())):
    os._exit(1)  # the sweep ended before the line above
for _name in THREAD_VARIABLES:
    # Points run side by side: further threads for small tables would only wait for a CPU.
    os.environ.setdefault(_name, "1")
gc.disable()  # until `fork_server_ready`, because everything that is imported stays
