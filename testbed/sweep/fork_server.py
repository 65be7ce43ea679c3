"""Imported by multiprocessing's fork server, first of all: it is killed when the sweep ends.

By itself it would notice that, too, and then take 0.7 s to tidy up what it has imported.
"""

import os

from testbed.confine import die_with_parent
from testbed.sweep import STARTER

die_with_parent()
if os.environ.get(STARTER) not in (None, str(os.getppid())):
    os._exit(1)  # the sweep ended before this
