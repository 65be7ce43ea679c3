"""The catalogs of workloads: operations of `collectives`, methods of `train`, libraries."""

from pathlib import Path
from typing import get_args

import testbed.workloads.train
from testbed.workloads.collectives.operations import OPERATIONS
from testbed.workloads.collectives.settings import ITEM_BYTES
from testbed.workloads.train import methods
from testbed.workloads.train.method_rules import RANK_RULES, RULES, method_names
from testbed.workloads.train.settings import MethodName

from testbed.spec.collective import collectives
from testbed.workers import comm
from testbed.workers.workload import workload_traits

METHODS = Path(testbed.workloads.train.__file__).parent / "methods"


def test_every_operation_has_code() -> None:
    assert list(OPERATIONS) == list(collectives())
    assert all(operation.__name__ == name for name, operation in OPERATIONS.items())


def test_gloo_has_all_operations_and_types() -> None:
    library = comm.library()
    assert library.name == comm.DEFAULT == "gloo"
    assert library.operations == set(collectives())
    assert library.dtypes == set(ITEM_BYTES)
    assert library.environment("eth0", 2) == {"GLOO_SOCKET_IFNAME": "eth0,eth0"}


def test_methods_are_the_files() -> None:
    assert get_args(MethodName) == method_names()
    assert len(method_names()) == len(list(METHODS.glob("*.py"))) - 1
    assert {*RULES, *RANK_RULES} <= set(method_names())
    for name in method_names():
        assert issubclass(methods.load(name), methods.Method)


def test_traits() -> None:
    assert not workload_traits("collectives").uses_all_of_torch
    assert workload_traits("train").uses_all_of_torch
    assert workload_traits("train").in_process_group
    assert not workload_traits("script").in_process_group
    assert workload_traits("none").in_process_group
