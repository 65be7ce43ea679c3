"""Imported by the fork server of a recorded sweep: its points use the recorded backend."""

from tests.support.recorded import use_recorded_backend

use_recorded_backend()
