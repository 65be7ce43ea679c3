"""Names and types that several test files use."""

import subprocess
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[2]
Need = Callable[[object, str], None]  # the fixture `need`
Command = Callable[..., subprocess.CompletedProcess[str]]  # the fixture `command`
