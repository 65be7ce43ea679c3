"""requirements.lock pins what pyproject.toml asks for, within its ranges."""

import platform
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.shared import PROJECT

LOCK = (PROJECT / "requirements.lock").read_text()
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())
PYTHONS: list[str] = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
# Extras with many packages, which are not in `dev`; proofs install them.
UNPINNED = ("mlflow", "optuna", "wandb")
GROUPS = {
    "dependencies": PROJECT_TABLE["dependencies"],
    **PROJECT_TABLE["optional-dependencies"],
}
PINNED = [group for group in GROUPS if group not in UNPINNED]


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


def test_extras_without_pins_are_not_set_up() -> None:
    needed: set[str] = set()
    for group in UNPINNED:
        needed.update(canonicalize_name(requirement.name) for requirement in _needed(group))
    assert needed & _pins().keys() == set()
    assert needed & {requirement.name for requirement in _needed("dev")} == set()


@pytest.mark.parametrize("group", PINNED)
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


def _requirements_of(name: str, extras: set[str], python: str) -> list[Requirement]:
    """The requirements of an installed package with extras, as another Python sees them."""
    texts = distribution(name).requires or []
    environments = [{"python_version": python, "python_full_version": f"{python}.0", "extra": ""}]
    environments += [{**environments[0], "extra": extra} for extra in extras]
    needed: list[Requirement] = []
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            needed.append(requirement)
    return needed


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_of_the_matrix_finds_its_packages(python: str) -> None:
    """By the markers and the supported Pythons that the installed packages declare."""
    pins = _pins()
    waiting: list[tuple[str, set[str]]] = [(PROJECT_TABLE["name"], {"dev"})]
    seen: set[tuple[str, frozenset[str]]] = set()
    wrong: dict[str, str] = {}
    while waiting:
        name, extras = waiting.pop()
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        try:
            metadata = distribution(name).metadata
        except PackageNotFoundError:
            assert python != ".".join(platform.python_version_tuple()[:2]), f"{name} is missing"
            continue  # needed only by another Python; its own requirements are not known here
        supported = SpecifierSet(",".join(metadata.get_all("Requires-Python") or []))
        if not supported.contains(f"{python}.0"):
            wrong[name] = f"supports Python {supported}"
        for requirement in _requirements_of(name, extras, python):
            needed = canonicalize_name(requirement.name)
            waiting.append((needed, requirement.extras))
            if needed == PROJECT_TABLE["name"]:
                continue  # an extra of the project
            pin = pins.get(needed)
            if pin is None or not requirement.specifier.contains(pin, prereleases=True):
                wrong[needed] = f"{name} needs {requirement}, the lock has {pin}"
    assert len(seen) > 100
    assert wrong == {}, "make lock regenerates requirements.lock"
