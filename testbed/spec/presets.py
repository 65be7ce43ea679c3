"""Presets: YAML files in ``topologies``, ``workloads`` and ``experiments``, named by their stem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import testbed
from testbed.core.errors import InputError
from testbed.core.suggestions import suggest
from testbed.spec import yaml_reader


class Preset(NamedTuple):
    """A preset; `description` is its one-line description."""

    name: str
    path: Path
    description: str


@dataclass(frozen=True)
class Library:
    """The presets of one kind (`noun`) in `folder`."""

    noun: str
    folder: Path

    def presets(self) -> list[Preset]:
        """Return all presets, sorted by name.

        Raises:
            InputError: A preset is not YAML.
        """
        presets: list[Preset] = []
        for path in self._files():
            description = yaml_reader.load(path).get("description", "")
            preset = Preset(
                name=path.stem,
                path=path,
                description=str(description),
            )
            presets.append(preset)

        return presets

    def find(self, name_or_path: str | Path, relative_to: Path | None = None) -> Path:
        """Return the path of a preset or of a file.

        Args:
            name_or_path: The name of a preset, or the path of any file.
            relative_to: Folder for relative paths; None: the working directory.

        Raises:
            InputError: The preset or file does not exist.
        """
        preset = self.folder / f"{name_or_path}.yaml"
        folder = relative_to or Path()
        path = folder / name_or_path
        is_path = "/" in str(name_or_path) or path.suffix in (".yaml", ".yml")
        is_name = not is_path
        if is_name and preset.is_file():
            return preset
        if path.is_file():
            return path
        if not is_name:
            raise InputError(f"no such {self.noun} file: {path}")

        names = [file.stem for file in self._files()]
        suggestion = suggest(name_or_path, names, "presets")
        raise InputError(
            f"unknown {self.noun} {str(name_or_path)!r}",
            remedy=f"{suggestion}; for a file, write its path",
        )

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.yaml"))


def _folder(name: str) -> Path:
    """Return the folder of presets: inside the package in a wheel, next to it in a checkout."""
    package = Path(testbed.__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


TOPOLOGIES = Library("topology", _folder("topologies"))
WORKLOADS = Library("workload", _folder("workloads"))
EXPERIMENTS = Library("experiment", _folder("experiments"))
PUBLISHED = Library("published table", EXPERIMENTS.folder / "published")
