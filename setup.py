"""What pyproject.toml cannot say: where the folders at the top level go in a wheel.

topologies/, experiments/ and workloads/ lie at the top of a checkout, where people read and copy
them. A wheel has them inside the package, as testbed/topologies and so on. An editable installation
needs no such mapping: there `testbed` finds the folders next to the package. With the root as the
folder of all packages, setuptools writes a path file; without, setuptools writes an import hook
that each Python process loads.
"""

import sys

from setuptools import find_packages, setup

packages = find_packages(include=["testbed", "testbed.*"])
folders = {}
if "editable_wheel" in sys.argv:
    folders[""] = "."
else:
    for folder in ("topologies", "experiments", "workloads"):
        folders[f"testbed.{folder}"] = folder
    packages += ["testbed.topologies", "testbed.experiments"]
    packages += [f"testbed.{name}" for name in find_packages(include=["workloads", "workloads.*"])]

setup(
    packages=packages,
    package_dir=folders,
    package_data={
        "testbed": ["py.typed"],
        "testbed.core.gazetteer": ["*.tsv", "SOURCES.md"],
        "testbed.topologies": ["*.yaml", "*.json"],
        "testbed.experiments": ["*.yaml", "published/*.yaml", "published/networks/*.yaml"],
        "testbed.workloads": ["*.yaml"],
        "testbed.guest": ["init", "kernel_source/*", "kernel_source/*/*"],
        "testbed.guest.bridge": ["*.c"],
        "testbed.report": ["*.j2", "*.css", "*.js", "plotly_js/*"],
        "testbed.report.map": ["data/*"],
        "testbed.sweep": ["*.j2"],
        "testbed.workers.gpu": ["native/*"],
        "testbed.ui": ["*.j2", "*.css", "*.js"],
    },
)
