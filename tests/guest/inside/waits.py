"""In a guest: a stage of a run that waits for ever, a second at a time, and lets the clock run."""

import sys
import time
from pathlib import Path

from testbed.runfolder.folder import RunDir, append_record

append_record(
    RunDir(Path(sys.argv[1])).events,
    {"stage": "network", "state": "begin", "time_ns": time.time_ns()},
)
while True:
    time.sleep(1)
