"""Imported by multiprocessing's fork server, first of all: it is killed when the sweep ends.

By itself it would notice that, too, and then take 0.7 s to tidy up what it has imported.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
