"""Read the options of a launcher's command line as argparse does, up to the first other word."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class LauncherOptions:
    """The options at the start of a command line.

    Attributes:
        values: values by option name, without leading dashes and with dashes inside.
        flags: names of the options without a value.
        places: position of the first word of each option.
        end: position of the first word after the options.
    """

    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=dict)
    end: int = 0

    def __contains__(self, name: str) -> bool:
        return name in self.places


def read_options(
    words: Sequence[str],
    start: int,
    *,
    flags: Collection[str],
    known: Collection[str] = (),
    short: dict[str, str] | None = None,
) -> LauncherOptions:
    """Return the options from position `start` on.

    Args:
        words: the command line.
        start: position of the first word to read.
        flags: names of options without a value; all other options have one.
        known: names of options with a value; unique abbreviations of names are accepted.
        short: full names of short options.
    """
    options = LauncherOptions(end=start)
    full_names = {**(short or {})}
    position = start

    while position < len(words) and words[position].startswith("-") and len(words[position]) > 1:
        if words[position] == "--":
            position += 1
            break

        written, has_value, value = words[position].partition("=")
        name = written.lstrip("-").replace("_", "-")
        name = full_names.get(name) or _full_name(name, [*flags, *known])
        options.places.setdefault(name, position)
        if name in flags:
            options.flags.add(name)
            position += 1
            continue

        if not has_value and position + 1 < len(words):
            position += 1
            value = words[position]

        options.values[name] = value
        position += 1

    options.end = position
    return options


def _full_name(name: str, names: Sequence[str]) -> str:
    """Return the only name that begins with `name`, otherwise `name`."""
    if name in names:
        return name

    matching = [other for other in names if other.startswith(name)]
    return matching[0] if len(matching) == 1 else name
