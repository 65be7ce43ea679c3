"""testbed clean: remove runs, caches and guest kernels that nothing uses."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.output import wide_console
from testbed.core.disk_use import PathsInUse, disk_bytes
from testbed.core.errors import InputError, MachineError
from testbed.core.leftovers import foreign_notes
from testbed.core.paths import cache_dir
from testbed.core.seals import is_seal, remove_sealed, seal_of
from testbed.core.units import format_size
from testbed.report.grid import Grid, GridColumn
from testbed.report.tables import render
from testbed.runfolder.folder import RunDir
from testbed.sweep.folder import SweepDir

FOREIGN_AGE_DAYS = 30  # longer than any run
DAY_S = 24 * 3600
MODULES, GPU_LIBRARIES = "modules", "GPU libraries"  # kinds for people


class What(StrEnum):
    """What can be removed."""

    RUNS = "runs"
    CACHES = "caches"
    KERNELS = "kernels"


@dataclass(frozen=True)
class Item:
    """A file or a folder that can be removed.

    Attributes:
        what: Kind of the item, for people.
        path: The file or the folder.
        size_bytes: Space on the disk.
        in_use: Whether a live process uses the item, which then stays.
        remark: Why the item stays, or what it is; empty for most items.
    """

    what: str
    path: Path
    size_bytes: int
    in_use: bool
    remark: str = ""


def clean(
    what: Annotated[
        list[What],
        typer.Argument(
            metavar="[runs|caches|kernels]...", help="items to remove \\[default: all three]"
        ),
    ] = [],  # noqa: B006 (typer copies it)
    results: Annotated[
        Path, typer.Option(metavar="FOLDER", help="folder with the folders of runs and sweeps")
    ] = Path("results"),
    foreign: Annotated[
        bool,
        typer.Option(
            "--foreign",
            help=f"remove notes of other machines, too, that are {FOREIGN_AGE_DAYS} days old",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the items and exit")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
) -> None:
    """Remove run folders, caches and guest kernels, except those that a live process uses.

    runs: the folders of runs and sweeps in results/. caches: imported modules of guests, libraries
    of modelled GPUs, the bridge between machines, and the downloaded source of Linux; the next run
    makes what it needs again, in seconds or, for modelled GPUs, in a minute or two. kernels: guest
    kernels; the next run builds one again in minutes.

    Machines that share a cache leave notes about their runs in it. Notes of a machine that does not
    exist any more stay until --foreign removes them.
    """
    items = list(_items(what or list(What), results))
    if not what or foreign:
        items += _foreign_notes(foreign)
    free = [item for item in items if not item.in_use]
    _print(items)
    if dry_run or not free:
        return
    if not yes:
        _ask(len(free))

    in_use_now = PathsInUse()
    kept = [item for item in free if _is_in_use(item.what, item.path, in_use_now)]
    for item in free:
        if item not in kept:
            _remove(item.path)
    for item in kept:
        typer.echo(f"kept {item.path}: in use since a moment ago")


def _items(what: Sequence[What], results: Path) -> Iterator[Item]:
    in_use = PathsInUse()
    for kind, path in _found(what, results):
        size_bytes = disk_bytes(path) + disk_bytes(seal_of(path))
        is_in_use = _is_in_use(kind, path, in_use)
        yield Item(kind, path, size_bytes, is_in_use, "in use, stays" if is_in_use else "")


def _foreign_notes(may_be_removed: bool) -> Iterator[Item]:
    """Yield the notes of other machines, of which only old ones can be removed."""
    for written in foreign_notes():
        owner = written.foreign_owner()
        if owner is None:  # removed by now
            continue
        days = int(written.age_s() / DAY_S)
        age = "1 day" if days == 1 else f"{days} days"
        remark = f"of {owner}, {age} old"
        stays = True
        if written.is_locked():
            remark += ", in use, stays"
        elif days < FOREIGN_AGE_DAYS:
            remark += f", stays for {FOREIGN_AGE_DAYS} days"
        elif not may_be_removed:
            remark += ", --foreign removes it"
        else:
            stays = False
        yield Item("note", written.folder, disk_bytes(written.folder), stays, remark)


def _found(what: Sequence[What], results: Path) -> Iterator[tuple[str, Path]]:
    """Yield what can be removed: its kind for people, and its path."""
    if What.RUNS in what:
        for path in _run_folders(results):
            yield "run", path

    cache = cache_dir()
    if What.CACHES in what:
        for path in _children(cache / "modules"):
            if not is_seal(path):
                yield MODULES, path
        for path in sorted(cache.glob("gpu/*/")):
            yield GPU_LIBRARIES, path
        for path in sorted(cache.glob("bridge/*.so")):
            yield "bridge", path
        for path in sorted(cache.glob("linux-*.tar.*")):
            if not is_seal(path):
                yield "Linux source", path

    if What.KERNELS in what:
        for path in sorted(cache.glob("kernel/*/linux")):
            yield "kernel", path.parent


def _is_in_use(kind: str, path: Path, in_use: PathsInUse) -> bool:
    # A guest reads these files when it starts a rank, and holds none open in between.
    if kind in (MODULES, GPU_LIBRARIES) and in_use.holds_any_run():
        return True
    return in_use.holds(path)


def _run_folders(results: Path) -> Iterator[Path]:
    """Yield the folders of runs and sweeps below `results`; other folders are not the testbed's."""
    for path in _children(results):
        run = RunDir(path)
        sweep = SweepDir(path)
        marks = (run.plan, run.status, sweep.index, sweep.lock)
        if not path.is_symlink() and any(mark.is_file() for mark in marks):
            yield path


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _print(items: Sequence[Item]) -> None:
    """Print the items with their sizes, and the total of those that can be removed."""
    if not items:
        typer.echo("nothing to remove")
        return

    rows: list[list[str]] = []
    for item in items:
        rows.append([item.what, format_size(item.size_bytes, 3), str(item.path), item.remark])
    columns = [
        GridColumn("what", number=False),
        GridColumn("size"),
        GridColumn("path", number=False),
        GridColumn("", number=False),
    ]
    wide_console().print(render(Grid("", columns, rows)))

    free = [item for item in items if not item.in_use]
    total = format_size(sum(item.size_bytes for item in free), 3)
    typer.echo(f"{len(free)} can be removed: {total}")


def _ask(count: int) -> None:
    """Ask for confirmation.

    Raises:
        InputError: Standard input is not a terminal.
        typer.Abort: The user does not confirm.
    """
    if not sys.stdin.isatty():
        raise InputError("no terminal to ask for confirmation", remedy="add --yes, or --dry-run")
    typer.confirm(f"Remove {'it' if count == 1 else f'these {count}'}?", abort=True)


def _remove(path: Path) -> None:
    """Remove a file with its seal, or a folder.

    Raises:
        MachineError: The system refuses.
    """
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            remove_sealed(path)
    except OSError as error:
        raise MachineError(f"cannot remove {error.filename or path}: {error.strerror}") from error
