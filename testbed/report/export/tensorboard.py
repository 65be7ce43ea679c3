"""A run as an event file of TensorBoard; the only module that imports tensorboardX.

Events carry the time on the run's clock, so that TensorBoard's "wall" axis is emulated time.
"""

from __future__ import annotations

from pathlib import Path

from testbed.core.errors import MachineError
from testbed.report.export.series import run_samples
from testbed.runfolder.folder import RunDir

try:
    from tensorboardX import SummaryWriter
except ImportError as error:
    raise MachineError(
        "tensorboardX, which writes TensorBoard's files, is not installed\n"
        "  run `pip install --editable '.[tensorboard]'` in the folder of the project"
    ) from error


def write_tensorboard(folder: RunDir, target: Path) -> list[Path]:
    """Write the scalars of a run, of its steps, operations and links as an event file.

    Args:
        folder: The run folder.
        target: Existing folder for the file.

    Returns:
        Path of the file.

    Raises:
        OSError: A table cannot be read, or the file cannot be written.
    """
    before = set(target.iterdir())
    with SummaryWriter(str(target)) as writer:
        for tag, value, step, time_s in run_samples(folder):
            writer.add_scalar(tag, value, step, walltime=time_s)
    return sorted(set(target.iterdir()) - before)
