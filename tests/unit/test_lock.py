"""requirements.lock pins what pyproject.toml asks for, within its ranges."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.shared import PROJECT

LOCK = (PROJECT / "requirements.lock").read_text()
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
GROUPS = {
    "dependencies": PROJECT_TABLE["dependencies"],
    **PROJECT_TABLE["optional-dependencies"],
}


def _pins() -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for line in LOCK.splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = Version(version)
    return pins


def _needed(group: str) -> list[Requirement]:
    """The requirements of a group that hold for this Python, without the project's own extras."""
    requirements = [Requirement(text) for text in GROUPS[group]]
    return [
        requirement
        for requirement in requirements
        if requirement.name != PROJECT_TABLE["name"]
        and (requirement.marker is None or requirement.marker.evaluate())
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_every_dependency_has_a_pin_in_its_range(group: str) -> None:
    pins = _pins()
    assert _needed(group) != []
    wrong = {}
    for requirement in _needed(group):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin, prereleases=True):
            wrong[str(requirement)] = pin
    assert wrong == {}, "make lock regenerates requirements.lock"


def test_torch_is_the_one_that_is_set_up() -> None:
    """Without a local part such as +cpu, which some registries do not have."""
    setup = (PROJECT / "scripts/setup").read_text()
    wanted = re.search(r"^TORCH=(\S+)$", setup, re.MULTILINE)
    assert wanted is not None
    assert str(_pins()["torch"]) == wanted[1]


def test_it_names_versions_alone() -> None:
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "://" not in LOCK
