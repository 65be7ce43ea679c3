"""Numbers by which the compiled libraries know operations and parts of models."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

Key = TypeVar("Key")


class Labels(Generic[Key]):
    """Numbers for keys, from 0 in the order in which the keys appear."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self._keys: list[Key] = []

    def number(self, key: Key) -> int:
        """Return the number of a key, a new one if the key is new."""
        number = self._numbers.get(key)
        if number is None:
            number = len(self._keys)
            self._numbers[key] = number
            self._keys.append(key)

        return number

    def key(self, number: int) -> Key | None:
        """Return the key of a number; None if the number is unknown."""
        return self._keys[number] if 0 <= number < len(self._keys) else None


class OperationKind(NamedTuple):
    """What the waits for operations are summed by.

    Attributes:
        op: name of the operation.
        process_group: as in `testbed.runfolder.records.Operation`.
        peer: number of the other rank of a message in that group; None for collectives.
    """

    op: str
    process_group: str
    peer: int | None


OPERATIONS: Labels[OperationKind] = Labels()


def label_work(work: Any, kind: OperationKind) -> None:
    """Let streams that wait for a work of the modelled NCCL say what they wait for."""
    work.set_label(OPERATIONS.number(kind))
