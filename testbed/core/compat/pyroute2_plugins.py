"""Register queueing disciplines that pyroute2's ``tc`` lacks or limits to 32-bit rates."""

from __future__ import annotations

from pyroute2.netlink.rtnl.tcmsg import plugins

CHECKED = {"pyroute2": ("0.9",)}


def register_plugins(**by_kind: type) -> None:
    """Register plug-ins for ``tc(..., kind=KIND)``, in place of pyroute2's plug-ins of those kinds.

    A plug-in has `parent`, `get_parameters` and a class `options` (see `pyroute2.netlink.rtnl`).
    """
    plugins.update(by_kind)
