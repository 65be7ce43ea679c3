"""Queueing disciplines that pyroute2's ``tc`` lacks or has with 32-bit rates only."""

from __future__ import annotations

from pyroute2.netlink.rtnl.tcmsg import plugins

CHECKED = {"pyroute2": ("0.9",)}


def register_plugins(**by_kind: type) -> None:
    """Let ``tc(..., kind=KIND)`` use a plug-in, in place of pyroute2's own of that kind.

    A plug-in has `parent`, `get_parameters` and a class `options` (see `pyroute2.netlink.rtnl`).
    """
    plugins.update(by_kind)
