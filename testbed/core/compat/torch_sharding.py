"""Let torch find the shards of a list of DTensors in a time that grows with the list, not faster.

An operator on a list (a fused optimizer, clipping) is worked out once for each list. Torch 2.13
looks through the specs of the whole list for each element, and expands the strategies of each
element anew, although most have the same shape and placements: with the 723 parameters of Llama 3
70B that is three quarters of a rank's work in its first step. Here a list is looked through once,
and the strategies of equal elements are expanded once. The result is the same.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from types import ModuleType, SimpleNamespace
from typing import Any

CHECKED = {"torch": ("2.13",)}
PROPAGATION = "torch.distributed.tensor._sharding_prop"
EXPANSION = "torch.distributed.tensor._ops.utils"
PROPAGATE = "propagate_op_sharding_non_cached"
PASS_FLAG_ON = "_propagate_use_strided_shard_flag"
EXPAND = "expand_to_full_mesh_op_strategy"


class _Known(threading.local):
    """What is known of the operator that a thread works out.

    Attributes:
        strided: stands for the operator's schema; has its specs with strided shards only.
        strategies: expanded strategies of elements.
    """

    strided: SimpleNamespace | None = None
    strategies: dict[Hashable, Any] | None = None


_known = _Known()


def look_once(propagation: ModuleType) -> None:
    """Change the module `PROPAGATION`, just imported, to look through each list once."""
    module: Any = propagation
    propagator = module.ShardingPropagator
    setattr(propagator, PROPAGATE, _forgetting(getattr(propagator, PROPAGATE)))
    setattr(module, PASS_FLAG_ON, _looking_once(getattr(module, PASS_FLAG_ON), module))


def expand_once(expansion: ModuleType) -> None:
    """Change the module `EXPANSION`, just imported, to expand equal elements once.

    It has no effect without `look_once`.
    """
    module: Any = expansion
    setattr(module, EXPAND, _expanding_once(getattr(module, EXPAND)))


def _forgetting(propagate: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch's function for one operator; what it has found is forgotten at its end."""

    @functools.wraps(propagate)
    def forgetting(propagator: Any, schema: Any) -> Any:
        before = _known.strided, _known.strategies
        _known.strided, _known.strategies = None, {}
        try:
            return propagate(propagator, schema)
        finally:
            _known.strided, _known.strategies = before

    return forgetting


def _looking_once(pass_on: Callable[..., None], propagation: Any) -> Callable[..., None]:
    """Return torch's function that passes a flag of strided shards on to an element's strategy."""

    @functools.wraps(pass_on)
    def looking_once(strategy: Any, schema: Any) -> None:
        if _known.strategies is None:
            pass_on(strategy, schema)
            return

        if _known.strided is None:
            strided = [spec for spec in schema.args_spec if _is_strided(spec, propagation)]
            _known.strided = SimpleNamespace(args_spec=strided)
        if _known.strided.args_spec:
            pass_on(strategy, _known.strided)

    return looking_once


def _is_strided(spec: Any, propagation: Any) -> bool:
    strided = propagation._StridedShard
    return any(isinstance(placement, strided) for placement in spec.placements)


def _expanding_once(expand: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch's function that expands the strategies of an operator's element."""

    @functools.wraps(expand)
    def expanding_once(mesh: Any, schema: Any, strategies: Any, **options: Any) -> Any:
        known = _known.strategies
        if known is None:
            return expand(mesh, schema, strategies, **options)

        arguments = _frozen(schema.args_schema), _frozen(schema.kwargs_schema)
        key = (mesh, schema.op, arguments, _frozen(strategies), _frozen(options))
        try:
            found = known.get(key)
        except TypeError:  # symbolic sizes
            return expand(mesh, schema, strategies, **options)

        if found is None:
            found = known[key] = expand(mesh, schema, strategies, **options)

        return found

    return expanding_once


def _frozen(value: Any) -> Any:
    """Return lists and dictionaries as tuples, which have a hash."""
    if isinstance(value, dict):
        return tuple((key, _frozen(each)) for key, each in value.items())

    if type(value) in (list, tuple):
        return tuple(_frozen(each) for each in value)

    return value
