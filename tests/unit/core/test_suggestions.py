"""The names that a wrong name may mean."""

from __future__ import annotations

import pytest

from testbed.core.suggestions import nearest, nearest_text, suggest
from testbed.spec.events import Event
from testbed.spec.topology import Datacenter, Topology
from testbed.spec.wan import LinkSettings

LINK = list(LinkSettings.model_fields)
OPS = ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
METHODS = ["ddp", "diloco", "local-sgd", "streaming-diloco", "powersgd"]


@pytest.mark.parametrize(
    "wrong", ["allreduce", "all-reduce", "AllReduce", "ALL_REDUCE", "all reduce"]
)
def test_punctuation_and_case(wrong: str) -> None:
    assert nearest(wrong, OPS) == ["all_reduce"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("alltoall", "all_to_all"),
        ("reduce-scatter", "reduce_scatter"),
        ("Broadcast", "broadcast"),
        ("allgahter", "all_gather"),
    ],
)
def test_operations(wrong: str, meant: str) -> None:
    assert nearest(wrong, OPS)[0] == meant


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("streaming_diloco", "streaming-diloco"),
        ("StreamingDiLoCo", "streaming-diloco"),
        ("local_sgd", "local-sgd"),
        ("DDP", "ddp"),
        ("PowerSGD", "powersgd"),
    ],
)
def test_methods(wrong: str, meant: str) -> None:
    assert nearest(wrong, METHODS) == [meant]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("latency", "nearest: delay (one way)"),
        ("rtt", "nearest: delay (one way: half of the round-trip time)"),
        ("RTT", "nearest: delay (one way: half of the round-trip time)"),
        ("bandwidth", "nearest: rate"),
        ("packet_loss", "nearest: loss (per packet)"),
        ("packetLoss", "nearest: loss (per packet)"),
        ("buffer", "nearest: queue"),
        ("qdisc", "nearest: discipline"),
        ("jiter", "nearest: jitter"),
    ],
)
def test_synonyms_of_link_settings(wrong: str, text: str) -> None:
    assert nearest_text(wrong, LINK) == text


@pytest.mark.parametrize(
    ("wrong", "known", "meant"),
    [
        ("nodes", list(Datacenter.model_fields), "hosts"),
        ("gpus", list(Datacenter.model_fields), "hosts"),
        ("coordinates", list(Datacenter.model_fields), "location"),
        ("sites", list(Topology.model_fields), "datacenters"),
        ("links", list(Topology.model_fields), "wan"),
        ("start", list(Event.model_fields), "at"),
        ("interval", list(Event.model_fields), "every"),
    ],
)
def test_synonyms_of_keys(wrong: str, known: list[str], meant: str) -> None:
    assert nearest(wrong, known)[0] == meant


@pytest.mark.parametrize("wrong", ["ohio-iowa", "ohio->iowa", "Ohio_Iowa", "ohio iowa"])
def test_ends_of_a_link_swapped(wrong: str) -> None:
    assert nearest(wrong, ["iowa-texas", "iowa-ohio", "ohio"]) == ["iowa-ohio"]


def test_a_link_of_names_with_hyphens() -> None:
    assert nearest("us-west-us-east", ["us-east-us-west", "us-east-eu"]) == ["us-east-us-west"]


def test_nothing_similar() -> None:
    assert nearest_text("colour", LINK) == ""
    assert suggest("zzz", ["iowa", "ohio"], "datacenters") == "datacenters: iowa, ohio"
