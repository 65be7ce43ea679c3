"""The modules that guests import, in one file: to find and read each by itself takes a guest a
dozen system calls.

usage: python bundle.py BUNDLE MODULE [ARGUMENT]...     as `python -m MODULE`, with the modules in
BUNDLE at hand

A bundle holds the compiled code of modules as they are in their files, and the size and time of
each of these: one that has changed makes it stale. What is not in it is imported as ever.
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

BUNDLE = Path(__file__)  # started as a program, it imports nothing of the testbed
FORMAT = b"testbed2"  # the first bytes; the next 8 are the length of the index, which comes last
# name: its file, the folders of a package or None, the file's size and time in ns, where its code
# is and how long
Index = dict[str, tuple[str, list[str] | None, int, int, int, int]]


class Finder:
    """Finds the modules of a bundle, for `sys.meta_path`."""

    # this file is `__main__` where it was started, and another module where it was imported
    of_a_bundle = True

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.index = _index(self._data)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As importlib asks."""
        del path, target
        if name not in self.index:
            return None
        origin, folders, _size, _time, begin, length = self.index[name]
        loader = _Loader(name, origin, self._data[begin : begin + length])
        return importlib.util.spec_from_file_location(
            name,
            origin,
            loader=loader,
            submodule_search_locations=None if folders is None else list(folders),
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
    """Bundle those of `modules`, by name, that have been imported from source files; replaces
    `path` at once.

    One process at a time: it is written beside `path` first.
    """
    index: Index = {}
    codes = []
    place = len(FORMAT) + 8
    for name, module in modules.items():
        spec = getattr(module, "__spec__", None)
        if not isinstance(spec, ModuleSpec) or spec.name != name:
            continue
        if type(spec.loader) is not SourceFileLoader or spec.origin is None:
            continue
        code = marshal.dumps(spec.loader.get_code(name))
        state = Path(spec.origin).stat()
        folders = (
            None
            if spec.submodule_search_locations is None
            else list(spec.submodule_search_locations)
        )
        index[name] = (spec.origin, folders, state.st_size, state.st_mtime_ns, place, len(code))
        codes.append(code)
        place += len(code)
    head = marshal.dumps(index)
    partial = path.with_name("partial")
    partial.write_bytes(b"".join([FORMAT, len(head).to_bytes(8, "little"), *codes, head]))
    partial.replace(path)


def _index(data: memoryview) -> Index:
    begin = len(FORMAT)
    if data[:begin] != FORMAT:
        raise ValueError("a bundle of another format")
    index: Index = marshal.loads(data[-int.from_bytes(data[begin : begin + 8], "little") :])
    return index


def is_fresh(path: Path) -> bool:
    """Whether `path` is a bundle, and each file is as it was."""
    try:
        index = Finder(path).index
        return all(
            _same(origin, size, time)
            for origin, _folders, size, time, _begin, _length in index.values()
        )
    except (OSError, ValueError, EOFError, TypeError):
        return False


def _same(origin: str, size: int, time: int) -> bool:
    state = Path(origin).stat()
    return (state.st_size, state.st_mtime_ns) == (size, time)


def remove() -> None:
    """From now on modules are only found where they are: a program's own may bear the name of one
    in the bundle.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, "of_a_bundle")]


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # as with -m
    sys.meta_path.insert(0, Finder(Path(sys.argv[1])))
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
