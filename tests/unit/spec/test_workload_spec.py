import json

import pytest
import yaml
from pydantic import ValidationError
from testbed.workloads.collectives.settings import Collectives

from testbed.spec.overrides import parse_overrides
from testbed.spec.presets import WORKLOADS
from testbed.spec.workload import load_workload, registry


def test_preset_is_the_default() -> None:
    workload = load_workload("collectives")
    assert isinstance(workload, Collectives)
    default = Collectives()
    assert workload.settings(10) == default.settings(10)
    assert default.ops == ["all_reduce", "all_gather", "broadcast", "barrier"]
    assert default.bytes_of_sizes() == [4096 * 4**power for power in range(7)]
    assert (default.dtype, default.warmup, default.iterations, default.connections) == (
        "float32",
        1,
        3,
        1,
    )


def test_presets_are_listed() -> None:
    assert [preset.name for preset in WORKLOADS.presets() if preset.name == "collectives"] == [
        "collectives"
    ]
    assert registry()["collectives"] is Collectives


def test_set() -> None:
    texts = ["workload.sizes=[4 KiB, 1 MiB]", "workload.iterations=3", "workload.ops=[barrier]"]
    workload = load_workload(
        "collectives", parse_overrides(texts, ["topology", "workload"])["workload"]
    )
    settings = workload.settings(4)
    assert (settings["sizes"], settings["iterations"], settings["ops"]) == (
        [4096, 2**20],
        3,
        ["barrier"],
    )
    assert json.loads(json.dumps(settings)) == settings


def test_set_within_a_range() -> None:
    workload = load_workload(
        "collectives", parse_overrides(["sizes.to=64 KiB"], ["workload"])["workload"]
    )
    assert workload.settings(2)["sizes"] == [4096, 16384, 65536]


def test_iterations_by_number_or_auto() -> None:
    assert Collectives.model_validate({"iterations": "auto"}).settings(2)["iterations"] == "auto"
    for wrong in ("often", 0, True, 2.5):
        with pytest.raises(ValidationError, match="iterations"):
            Collectives.model_validate({"iterations": wrong})
    with pytest.raises(ValidationError, match="iteration_limit"):
        Collectives.model_validate({"iterations": "auto", "iteration_limit": 5})


@pytest.mark.parametrize(
    "sizes", [["4 KiB", "1 MiB"], {"from": "1 KiB", "to": "8 KiB", "factor": 2}]
)
def test_round_trip(sizes: object) -> None:
    workload = Collectives.model_validate({"sizes": sizes, "dtype": "int8"})
    written = yaml.safe_load(workload.to_yaml())
    assert written["workload"] == "collectives"
    assert Collectives.model_validate(written) == workload


def test_largest_tensor() -> None:
    assert (
        Collectives.model_validate({"sizes": ["4 KiB", "1 MiB"]}).largest_tensor_bytes(4) == 2**20
    )
    assert Collectives.model_validate({"sizes": ["4 B"]}).largest_tensor_bytes(4) == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ops": ["all_to_all", "gather"], "in_place": True},
            "all_to_all cannot run in place: torch requires",
        ),
        ({"ops": ["reduce"], "algorithm": "hierarchical"}, "no hierarchical algorithm for reduce"),
        (
            {"algorithm": "hierarchical", "groups": "rail"},
            "groups: rail leaves no hierarchy; a hierarchical operation joins all ranks",
        ),
        ({"dtype": "int16"}, "'float32'.* or 'int64'"),
        ({"ops": ["allreduce"]}, "'all_reduce'"),
        ({"groups": "dc"}, "'datacenter'"),
    ],
)
def test_impossible_settings(settings: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Collectives.model_validate(settings)


def test_possible_settings() -> None:
    in_groups = {"ops": ["gather", "scatter"], "in_place": True, "groups": "datacenter"}
    assert Collectives.model_validate(in_groups).groups == "datacenter"
    staged = {"algorithm": "hierarchical", "ops": ["all_reduce", "barrier"], "in_place": True}
    assert Collectives.model_validate(staged).algorithm == "hierarchical"


@pytest.mark.parametrize("dtype", ["bfloat16", "uint8", "int64"])
def test_types(dtype: str) -> None:
    item = {"bfloat16": 2, "uint8": 1, "int64": 8}[dtype]
    workload = Collectives.model_validate({"dtype": dtype, "sizes": [f"{item} B"]})
    assert workload.largest_tensor_bytes(4) == 4 * item


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ["6 B"]}, "the size 6 B is not a multiple of 4 B, the size of float32"),
        ({"sizes": ["6 B"], "dtype": "float64"}, "not a multiple of 8 B"),
        ({"sizes": []}, "sizes is empty"),
        ({"sizes": {"from": "1 MiB", "to": "4 KiB"}}, "sizes is empty"),
        ({"sizes": ["0 B"]}, "is not a multiple"),
    ],
)
def test_sizes_that_make_no_tensor(settings: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Collectives.model_validate(settings)
