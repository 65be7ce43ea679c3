"""Store the compiled modules that guests import in one file, and import modules from that file.

usage: python code_bundle.py BUNDLE MODULE [ARGUMENT]...
    Run MODULE as `python -m MODULE` does, with imports from BUNDLE.

In a guest, finding and reading a module takes a dozen system calls; importing a module from a
bundle takes none. A bundle contains the compiled code of modules, with the size and modification
time of each source file: a changed file makes the bundle stale. Other modules are imported as
usual.
"""

from __future__ import annotations

import importlib.util
import marshal
import mmap
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

BUNDLE = Path(__file__)  # run as a program, this file imports nothing of the testbed

# File format: the bytes of FORMAT, the length of the index (8 bytes, little-endian), the code of
# every module, and the marshalled index: the fields of an Entry by module name.
FORMAT = b"testbed2"
LENGTH_BYTES = 8


class Entry(NamedTuple):
    """Index entry of a module in a bundle."""

    origin: str  # the source file
    folders: list[str] | None  # search path of submodules, if the module is a package
    file_size: int  # bytes
    file_time_ns: int
    begin: int  # offset of the module's code in the bundle
    length: int


class Finder:
    """Import finder for the modules of a bundle, for `sys.meta_path`."""

    # Identifies finders across the two imports of this file, as `__main__` and as a module.
    of_a_bundle = True

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        self._data = memoryview(mapped)

        self.index = _read_index(self._data)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of module `name` for importlib; None if not in the bundle."""
        del path, target
        entry = self.index.get(name)
        if entry is None:
            return None

        end = entry.begin + entry.length
        code = self._data[entry.begin : end]
        return importlib.util.spec_from_file_location(
            name,
            entry.origin,
            loader=_Loader(name, entry.origin, code),
            submodule_search_locations=entry.folders,
        )


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: memoryview) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        code: CodeType = marshal.loads(self._code)
        return code


def write(path: Path, modules: Mapping[str, ModuleType]) -> None:
    """Write a bundle of the modules that were imported from source files.

    The file is replaced atomically. Only one process at a time may write into the folder of the
    bundle.

    Args:
        path: The bundle to write or replace.
        modules: Imported modules by name, as in `sys.modules`.
    """
    index: dict[str, tuple[object, ...]] = {}
    codes: list[bytes] = []
    begin = len(FORMAT) + LENGTH_BYTES
    for name, module in modules.items():
        spec = getattr(module, "__spec__", None)
        if not isinstance(spec, ModuleSpec) or spec.name != name:
            continue
        if type(spec.loader) is not SourceFileLoader or spec.origin is None:
            continue

        code = marshal.dumps(spec.loader.get_code(name))
        entry = _entry(spec, spec.origin, begin, len(code))
        index[name] = tuple(entry)
        codes.append(code)
        begin += entry.length

    index_bytes = marshal.dumps(index)
    index_length = len(index_bytes).to_bytes(LENGTH_BYTES, "little")
    parts = [FORMAT, index_length, *codes, index_bytes]
    partial = path.with_name("partial")
    partial.write_bytes(b"".join(parts))
    partial.replace(path)


def _entry(spec: ModuleSpec, origin: str, begin: int, length: int) -> Entry:
    folders = None
    if spec.submodule_search_locations is not None:
        folders = list(spec.submodule_search_locations)

    state = Path(origin).stat()
    return Entry(
        origin=origin,
        folders=folders,
        file_size=state.st_size,
        file_time_ns=state.st_mtime_ns,
        begin=begin,
        length=length,
    )


def _read_index(data: memoryview) -> dict[str, Entry]:
    """Return the index of a bundle, by module name.

    Raises:
        ValueError, EOFError, TypeError: `data` is not a bundle.
    """
    after_format = len(FORMAT)
    if data[:after_format] != FORMAT:
        raise ValueError("a bundle of another format")

    length_bytes = data[after_format : after_format + LENGTH_BYTES]
    index_length = int.from_bytes(length_bytes, "little")
    index = marshal.loads(data[-index_length:])
    return {name: Entry(*fields) for name, fields in index.items()}


def is_fresh(path: Path) -> bool:
    """Return whether `path` is a bundle whose source files have not changed."""
    try:
        index = Finder(path).index
        return all(_is_unchanged(entry) for entry in index.values())
    except (OSError, ValueError, EOFError, TypeError, AttributeError):
        return False


def _is_unchanged(entry: Entry) -> bool:
    state = Path(entry.origin).stat()
    same_size = state.st_size == entry.file_size
    same_time = state.st_mtime_ns == entry.file_time_ns
    return same_size and same_time


def remove() -> None:
    """Stop importing from the bundle; use only source files from now on.

    A user's program may have modules with the same names as bundled modules.
    """
    others = [finder for finder in sys.meta_path if not hasattr(finder, "of_a_bundle")]
    sys.meta_path[:] = others


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # as python -m does
    sys.meta_path.insert(0, Finder(Path(sys.argv[1])))
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
