"""Register queueing disciplines that pyroute2's ``tc`` lacks or limits to 32-bit rates."""

from __future__ import annotations

from typing import Any

from pyroute2.netlink.rtnl.tcmsg import act_mirred, act_police, common_act, plugins
from pyroute2.netlink.rtnl.tcmsg.common import tc_actions

CHECKED = {"pyroute2": ("0.9",)}


def register_plugins(**by_kind: type) -> None:
    """Register plug-ins for ``tc(..., kind=KIND)``, in place of pyroute2's plug-ins of those kinds.

    A plug-in has `parent`, `get_parameters` and a class `options` (see `pyroute2.netlink.rtnl`).
    """
    plugins.update(by_kind)


class MirredPlugin:
    """Plugin for the action ``mirred`` that can redirect copies, with ``copy=True``.

    The kernel redirects a packet itself if the action ends the packet's way, and otherwise a copy,
    which does not belong to the socket that has sent the packet. Another action follows for the
    packet itself.
    """

    options = act_mirred.options

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one action."""
        message: dict[str, Any] = act_mirred.get_parameters(parameters)
        if parameters.get("copy"):
            ((_name, fields),) = message["attrs"]
            fields["action"] = tc_actions["pipe"]
        return message


class PolicePlugin:
    """Plugin for the action ``police`` that drops every packet: each is longer than 1 byte.

    The guest's kernel is built without the action gact.
    """

    options = act_police.options

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one action."""
        del parameters
        fields = {"action": act_police.actions["drop"], "mtu": 1}
        return {"attrs": [["TCA_POLICE_TBF", fields]]}


common_act.plugins.update(mirred=MirredPlugin, police=PolicePlugin)
