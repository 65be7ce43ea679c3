"""Imported by multiprocessing's fork server, first of all: it is killed when the sweep ends, and
imports quickly.

By itself it would notice that end, too, and then take 0.7 s to tidy up what it has imported.
"""

import gc
import os

from testbed.core.linux import die_with_parent
from testbed.sweep import STARTER

die_with_parent()
if os.environ.get(STARTER) not in (None, str(os.getppid())):
    os._exit(1)  # the sweep ended before this
for _name in ("OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(
        _name, "1"
    )  # points are what runs side by side: more threads for small tables only wait
gc.disable()  # until all is imported, for that stays
