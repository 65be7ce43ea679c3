"""Give each operation its process group, and check that the traces of all ranks fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from testbed.core.units import UnitError, format_ranks, format_size

from .programs import Program, ProgramItem
from .trace import (
    BYTES,
    IN_PARTS,
    ITEM_BYTES,
    MESSAGES,
    ROOTED,
    Communication,
    Node,
    is_default_group,
)

SAME_SIZE = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")
Groups = dict[str, tuple[int, ...]]
Made = Sequence[Sequence[tuple[ProgramItem, Node]]]  # of each rank


@dataclass
class _Member:
    """The collectives of a rank in a group."""

    rank: int
    items: list[ProgramItem] = field(default_factory=list)
    communications: list[Communication] = field(default_factory=list)


def group_ranks(
    made: Made,
    known: Mapping[str, tuple[int, ...]],
    ranks: int,
) -> Groups:
    """Return the ranks of each process group but that of all ranks, by name.

    Groups of which the traces say nothing have the ranks that use them.

    Args:
        made: Items and nodes of each rank; a single one if all ranks repeat it.
        known: The ranks of groups, as far as the traces say.
        ranks: Number of ranks.

    Raises:
        UnitError: A group has ranks that do not exist, or a single trace does not fit all ranks.
    """
    used: dict[str, set[int]] = {}
    for rank, of_rank in enumerate(made):
        for _item, node in of_rank:
            communication = node.communication
            if communication is not None and communication.op not in MESSAGES:
                used.setdefault(communication.group, set()).add(rank)

    groups: Groups = {}
    everyone = tuple(range(ranks))
    for name, users in sorted(used.items()):
        members = known.get(name, everyone if len(made) == 1 else tuple(sorted(users)))
        if members and max(members) >= ranks:
            raise UnitError(
                f"the group {name!r} of the traces has rank {max(members)}, but the run has "
                f"{ranks} ranks",
                "use a topology with as many hosts as the traces have ranks",
            )
        if len(made) == 1 and members != everyone:
            raise UnitError(
                f"one trace cannot be repeated by all ranks: its group {name!r} has only the ranks "
                f"{format_ranks(members)}",
                "replay a trace of each rank",
            )
        if is_default_group(name) and members != everyone:
            raise UnitError(
                f"the group of all ranks has {len(members)} ranks in the traces, but the run has "
                f"{ranks}",
                "use a topology with as many hosts as the traces have ranks",
            )
        if not is_default_group(name):
            groups[name] = members
    return groups


def fill_in(
    made: Made,
    groups: Mapping[str, tuple[int, ...]],
    ranks: int,
) -> list[Program]:
    """Return the programs with all operations filled in.

    Args:
        made: Items and nodes of each rank; a single one if all ranks repeat it.
        groups: The ranks of each group but that of all ranks.
        ranks: Number of ranks.

    Raises:
        UnitError: The operations of two ranks do not fit together, or a rank does not exist.
    """
    everyone = tuple(range(ranks))
    members: dict[str, list[_Member]] = {}
    messages: Counter[tuple[int, int, int, str]] = Counter()
    for rank, of_rank in enumerate(made):
        here: dict[str, _Member] = {}
        for item, node in of_rank:
            communication = node.communication
            if communication is None:
                continue
            ranks_of_group = groups.get(communication.group, everyone)
            _fill_in_one(item, communication, ranks_of_group)
            if communication.op in MESSAGES:
                _count_message(messages, rank, communication, ranks, single=len(made) < ranks)
                continue
            if not is_default_group(communication.group):
                item["group"] = communication.group
            name = "" if is_default_group(communication.group) else communication.group
            member = here.setdefault(name, _Member(rank))
            member.items.append(item)
            member.communications.append(communication)
        for name, member in here.items():
            members.setdefault(name, []).append(member)

    _check_messages(messages)
    for name, of_group in members.items():
        _check_group(name, of_group, groups.get(name, everyone), single=len(made) < ranks)
    programs: list[Program] = []
    for of_rank in made:
        programs.append([item for item, _node in of_rank])
    return programs


def _fill_in_one(item: ProgramItem, communication: Communication, ranks: tuple[int, ...]) -> None:
    """Set what an operation needs besides its place in the program."""
    size = communication.bytes
    if communication.is_part:
        size *= len(ranks)
    item["op"] = communication.op
    item["bytes"] = size
    item["dtype"] = BYTES
    item_bytes = ITEM_BYTES.get(communication.dtype)
    parts = len(ranks) if communication.op in IN_PARTS else 1
    if item_bytes is not None and size % (item_bytes * parts) == 0:
        item["dtype"] = communication.dtype
    if communication.op in ROOTED:
        item["root"] = ranks[0] if communication.root is None else communication.root
    if communication.peer is not None:
        item["peer"] = communication.peer
        item["tag"] = communication.tag
    if communication.parts:
        item["parts"] = list(communication.parts)
        item["dtype"] = BYTES


def _count_message(
    messages: Counter[tuple[int, int, int, str]],
    rank: int,
    communication: Communication,
    ranks: int,
    *,
    single: bool,
) -> None:
    peer = communication.peer
    assert peer is not None
    if single:
        raise UnitError(
            f"one trace cannot be repeated by all ranks: it has a message ({communication.op}) "
            f"with rank {peer}",
            "replay a trace of each rank",
        )
    if peer >= ranks or peer == rank:
        raise UnitError(
            f"rank {rank} of the traces has a message with rank {peer}, but the run has {ranks} "
            "ranks",
            "use a topology with as many hosts as the traces have ranks",
        )
    ends = (rank, peer) if communication.op == "send" else (peer, rank)
    messages[(*ends, communication.tag, communication.op)] += 1


def _check_messages(messages: Counter[tuple[int, int, int, str]]) -> None:
    """Raise UnitError if a message has only one end."""
    for source, target, tag, _op in sorted(messages):
        sent = messages[source, target, tag, "send"]
        received = messages[source, target, tag, "recv"]
        if sent != received:
            raise UnitError(
                f"the traces do not fit together: rank {source} sends {sent} messages to rank "
                f"{target} (tag {tag}), which receives {received}",
                "use the traces of the same steps of one job",
            )


def _check_group(
    name: str, members: Sequence[_Member], ranks: tuple[int, ...], *, single: bool
) -> None:
    """Check that all ranks of a group call the same operations, and complete what only some know.

    Raises:
        UnitError: They do not.
    """
    where = f"group {name!r}" if name else "the group of all ranks"
    remedy = "use the traces of the same steps of one job"
    first = members[0]
    missing = sorted(set(ranks) - {member.rank for member in members})
    if missing and not single:
        what = f"rank {missing[0]} has no operation in {where}, unlike rank {first.rank}"
        raise UnitError(f"the traces do not fit together: {what}", remedy)
    for member in members:
        if len(member.items) != len(first.items):
            raise UnitError(
                f"the traces do not fit together: in {where} rank {first.rank} has "
                f"{len(first.items)} operations, rank {member.rank} has {len(member.items)}",
                remedy,
            )
    for number in range(len(first.items)):
        items = [member.items[number] for member in members]
        for member, item in zip(members, items, strict=True):
            if not _fit(items[0], item):
                raise UnitError(
                    f"the traces do not fit together: operation {number + 1} of {where} is "
                    f"{_text(items[0])} on rank {first.rank}, and {_text(item)} on rank "
                    f"{member.rank}",
                    remedy,
                )
        _complete(items, ranks, members, number)


def _fit(item: ProgramItem, other: ProgramItem) -> bool:
    if item["op"] != other["op"] or (item["op"] in SAME_SIZE and item["bytes"] != other["bytes"]):
        return False
    return item.get("root") == other.get("root")


def _text(item: ProgramItem) -> str:
    text = item["op"] if not item["bytes"] else f"{item['op']} of {format_size(item['bytes'])}"
    return f"{text} from rank {item['root']}" if "root" in item else text


def _complete(
    items: Sequence[ProgramItem], ranks: tuple[int, ...], members: Sequence[_Member], number: int
) -> None:
    """Set what a rank learns from the others: the size of parts, and what others send to it."""
    op = items[0]["op"]
    if op in ("gather", "scatter"):
        most = max(items, key=lambda item: item["bytes"])
        for item in items:
            item["bytes"], item["dtype"] = most["bytes"], most["dtype"]
    if op != "all_to_all" or not any("parts" in item for item in items):
        return
    sent: list[list[int]] = []
    for item in items:
        part = item["bytes"] // len(ranks)
        sent.append(item.get("parts") or [part] * len(ranks))
    if len(sent) != len(ranks) or any(len(parts) != len(ranks) for parts in sent):
        raise UnitError(
            f"operation {number + 1} of rank {members[0].rank}: an all_to_all with different parts "
            "needs a trace of each rank",
        )
    for place, item in enumerate(items):
        item["parts"] = sent[place]
        item["received"] = [parts[place] for parts in sent]
        item["bytes"] = sum(sent[place])
        item["dtype"] = BYTES
