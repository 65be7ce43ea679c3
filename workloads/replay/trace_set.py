"""Find the files of a trace, and read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.core.units import UnitError

from . import chakra_files, kineto_files
from .agreement import fill_in, group_ranks
from .programs import begin_ns, check_size, make_program
from .trace import RankTrace

ENDINGS = (chakra_files.ENDING, *kineto_files.ENDINGS)
_RANK = re.compile(r"rank[-_.]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")


def trace_files(pattern: str) -> list[Path]:
    """Return the files that a folder, a pattern or a name stands for.

    Raises:
        UnitError: There is none, or a folder has traces of two kinds.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS))
        is_chakra = {file.name.endswith(chakra_files.ENDING) for file in files}
        if len(is_chakra) > 1:
            remedy = f"name those to replay, such as '{path}/*{chakra_files.ENDING}'"
            raise UnitError(f"the folder {path} has traces of two kinds", remedy)
        if not files:
            remedy = f"names of traces end in {', '.join(ENDINGS)}"
            raise UnitError(f"the folder {path} has no traces", remedy)
        return files
    if path.exists():
        return [path]
    files = sorted(path.parent.glob(path.name)) if path.name else []
    if not files:
        remedy = "name a folder, a pattern such as 'traces/*.et', or one file"
        raise UnitError(f"no trace {pattern!r}", remedy)
    return files


def read_trace(path: Path) -> RankTrace:
    """Read a trace of Chakra or of PyTorch's profiler.

    Raises:
        UnitError: The file cannot be read, or is none of the two.
    """
    try:
        if path.name.endswith(chakra_files.ENDING):
            return chakra_files.read_chakra(path)
        return kineto_files.read_kineto(path)
    except OSError as error:
        raise UnitError(f"cannot read the trace {path}: {error.strerror}") from error


def load_programs(pattern: str, ranks: int, computation: float) -> Mapping[str, Any]:
    """Return the programs of all ranks as settings of the plan.

    Args:
        pattern: Folder, pattern or file.
        ranks: Number of ranks of the run.
        computation: Factor on computation and pauses.

    Returns:
        `programs`, one for each rank, or one that all ranks repeat; and `groups`, the ranks of each
        process group by name.

    Raises:
        UnitError: The traces do not fit the run or each other, or cannot be read.
    """
    files = trace_files(pattern)
    if len(files) not in (1, ranks):
        raise UnitError(
            f"{len(files)} traces for {ranks} ranks",
            "use a topology with a host for each trace, set ranks_per_host, or name one trace that "
            "all ranks repeat",
        )
    traces = _by_rank([read_trace(path) for path in files], ranks)
    known: dict[str, tuple[int, ...]] = {}
    origins = [begin_ns(trace) for trace in traces]
    made = []
    for trace, own_ns in zip(traces, origins, strict=True):
        known.update(trace.groups)
        origin_ns = own_ns if trace.own_clock else min(origins)
        made.append(make_program(trace, origin_ns, computation))
    groups = group_ranks(made, known, ranks)
    programs = fill_in(made, groups, ranks)
    check_size({str(number): program for number, program in enumerate(programs)})
    return {"programs": programs, "groups": {name: list(of) for name, of in groups.items()}}


def _by_rank(traces: list[RankTrace], ranks: int) -> list[RankTrace]:
    """Return the traces in the order of their ranks.

    Raises:
        UnitError: The traces say that they have other ranks.
    """
    for trace in traces:
        if trace.world_size is not None and trace.world_size != ranks:
            raise UnitError(
                f"the trace {trace.path} is of {trace.world_size} ranks, but the run has {ranks}",
                "use a topology with as many hosts as the trace has ranks, or set ranks_per_host",
            )
    if len(traces) == 1:
        return traces

    numbers: dict[int, RankTrace] = {}
    for trace in traces:
        rank = trace.rank if trace.rank is not None else _rank_in_name(trace.path)
        if rank in numbers:
            other = numbers[rank].path
            raise UnitError(f"{trace.path} and {other} are both traces of rank {rank}")
        numbers[rank] = trace
    if sorted(numbers) != list(range(ranks)):
        missing = min(set(range(ranks)) - set(numbers))
        remedy = "the last number of a file's name, or the one after 'rank', is its rank"
        raise UnitError(f"no trace of rank {missing}", remedy)
    return [numbers[rank] for rank in range(ranks)]


def _rank_in_name(path: Path) -> int:
    """Return the rank in a file's name, such as ``run.3.et`` or ``rank-3.json``."""
    named = _RANK.search(path.name)
    if named is not None:
        return int(named[1])
    numbers = _NUMBER.findall(path.name)
    if not numbers:
        remedy = "name the files as in run.0.et, run.1.et or rank0.json, rank1.json"
        raise UnitError(f"the name of the trace {path} has no rank", remedy)
    return int(numbers[-1])
