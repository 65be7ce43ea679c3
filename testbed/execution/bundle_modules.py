"""Write a bundle of all modules that runs import in a guest, except the project's own modules.

usage: python -m testbed.execution.bundle_modules FILE

The project's own modules are left out because they change too often.
"""

from __future__ import annotations

import sys
from pathlib import Path

from testbed.core import code_bundle
from testbed.execution import inside
from testbed.network import flow_limit, managed_queues  # noqa: F401 (imported by runs)
from testbed.workers import containers, processes  # noqa: F401 (imported by runs)
from testbed.workers.zygote import prepare_torch
from testbed.workers.zygote_warm import import_torch

OWN_PACKAGES = {"testbed", "__main__"}


def main(path: str) -> None:
    """Import all modules of a run and write the bundle to `path`."""
    import_torch()
    for workload in ("collectives", "train"):
        prepare_torch(workload)
    modules = {}
    for name, module in sys.modules.items():
        package = name.split(".")[0]
        if package not in OWN_PACKAGES:
            modules[name] = module
    code_bundle.write(Path(path), modules)


if __name__ == "__main__":
    main(sys.argv[1])
    inside.leave(0)
