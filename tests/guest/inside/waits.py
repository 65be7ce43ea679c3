"""In a guest: a stage of a run that hangs, a second at a time, and lets the clock run."""

import sys
import time
from pathlib import Path

from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import StageBegan, append

run = RunDir(Path(sys.argv[1]))
append(run.events, StageBegan(stage="network", time_ns=time.time_ns()))
while True:
    time.sleep(1)
