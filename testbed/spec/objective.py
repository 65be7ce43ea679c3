"""The objective of a search over several keys: an expression over figures, settings and prices.

find:
  minimise: cost_per_token               # or maximise
  define:
    gpu_hour: 2.5                        # such as prices
    gbit_hour: 0.4
    cost_per_token: (8 * gpu_hour + gbit_hour * rate / 1 Gbit/s) / 3600 / tokens_per_s
  over:
    topology.wan.iowa-ohio.rate: {from: 1 Gbit/s, to: 100 Gbit/s, points: 9, scale: log}
    workload.method: [ddp, diloco]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from testbed.core.units import UnitError
from testbed.spec.condition import Condition, Measure, measure
from testbed.spec.condition_parts import names_in
from testbed.spec.figures import measures, run_figures

_NAME = re.compile(r"[a-z_][a-z0-9_]*")


class Objective:
    """An expression whose value is sought to be small or large.

    Attributes:
        text: The expression.
        figures: The figures of a run that the value depends on, in order of first appearance.
    """

    def __init__(self, text: str, define: Mapping[str, Any], settings: Sequence[str]) -> None:
        """Parse the expression.

        Args:
            text: The expression.
            define: Numbers and expressions by name; an expression may use the names before it.
            settings: Short names of the keys that differ between points.

        Raises:
            UnitError: A name is unknown, taken or not a name, or a text is not an expression.
        """
        self.text = text
        known = [*run_figures(), *settings]
        self._definitions: dict[str, Condition | Measure] = {}
        for name, value in define.items():
            if not _NAME.fullmatch(name):
                raise UnitError(f"{name!r} is not a name", "use letters, digits and underscores")
            if name in known:
                raise UnitError(f"{name} is already a figure or a setting", "choose another name")
            self._definitions[name] = _definition(value, known)
            known.append(name)
        self._expression = Condition.parse(text, known)
        self.figures = list(dict.fromkeys(self._figures(self._expression)))

    def _figures(self, expression: Condition) -> Iterator[str]:
        for name in names_in(expression):
            definition = self._definitions.get(name)
            if isinstance(definition, Condition):
                yield from self._figures(definition)
            elif name in run_figures():
                yield name

    def value(self, row: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
        """Return the value for a run.

        Args:
            row: Columns of the run's row in the sweep's table.
            settings: Values of the keys that differ between points, by short name.

        Raises:
            UnitError: The run lacks a figure, or values cannot be combined.
        """
        return self._value({**settings, **measures(run_figures(), row)})

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that the value is a number, with figures of 1.

        Args:
            settings: A value of each key that differs between points, by short name.

        Raises:
            UnitError: The expression is not a number, or combines different quantities.
        """
        samples = {name: figure.measure(1.0) for name, figure in run_figures().items()}
        self._value({**settings, **samples})

    def _value(self, values: dict[str, Any]) -> float:
        for name, definition in self._definitions.items():
            if isinstance(definition, Condition):
                values[name] = definition.number(values)
            else:
                values[name] = definition
        return float(self._expression.number(values).number)


def _definition(value: Any, known: Sequence[str]) -> Condition | Measure:
    number = measure(value)
    if isinstance(number, Measure):
        return number
    if not isinstance(value, str):
        raise UnitError(f"{value!r} is neither a number nor an expression")
    return Condition.parse(value, known)
