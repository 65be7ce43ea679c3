"""Start Mininet's shells in existing namespaces, and redirect Mininet's log."""

from __future__ import annotations

import termios
from collections.abc import Callable
from typing import Any, TextIO

from mininet.log import lg

CHECKED = {"mininet": ("2.3",)}


def start_attached_shell(node: Any, start_shell: Callable[[str], None]) -> None:
    """Start the shell of a Mininet `node` in the namespaces of process ``node.pid``.

    Args:
        node: a `mininet.node.Node`.
        start_shell: Mininet's original ``startShell`` of that node; takes options of mnexec.
    """
    pid = node.pid
    in_namespace = node.inNamespace
    node.inNamespace = False  # else the shell would get a separate namespace
    start_shell(f"-cda{pid}")
    node.pid = pid
    node.inNamespace = in_namespace
    _keep_line_ends(node.stdin.fileno())


def _keep_line_ends(terminal: int) -> None:
    """Let a terminal pass on line feeds as programs write them, without carriage returns.

    The terminal of the user adds the carriage returns.
    """
    modes = termios.tcgetattr(terminal)
    modes[1] &= ~termios.ONLCR  # modes of output
    termios.tcsetattr(terminal, termios.TCSANOW, modes)


def print_to(stream: TextIO) -> None:
    """Redirect Mininet's log to `stream`."""
    lg.handlers[0].setStream(stream)
