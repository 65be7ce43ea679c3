"""The prompt of testbed topo shell: line editing and completion; the guest runs the commands."""

from __future__ import annotations

import cmd
import readline
import sys
from pathlib import Path

from testbed.cli.terminal import raw_output
from testbed.core.paths import cache_dir
from testbed.deployments.client import call
from testbed.deployments.folder import Deployment
from testbed.deployments.requests import Request

HISTORY_LINES = 1000
END = ("exit", "quit", "EOF")


class Shell(cmd.Cmd):
    """Prompt for one deployment, until ``exit`` or end of input."""

    def __init__(self, deployment: Deployment, nodes: list[str], commands: list[str]) -> None:
        """Create a prompt that completes the names of `nodes` and of Mininet's `commands`."""
        super().__init__()
        self._deployment = deployment
        self._nodes = nodes
        self._commands = [*commands, "exit"]
        self.prompt = f"{deployment.name}> " if sys.stdin.isatty() else ""

    def run(self) -> None:
        """Read lines until end of input; Ctrl-C clears the line, and the history is saved."""
        history = cache_dir() / "shell-history"
        _read(history)
        readline.set_completer_delims(" \t\n")
        readline.set_history_length(HISTORY_LINES)
        try:
            while True:
                try:
                    return self.cmdloop()
                except KeyboardInterrupt:
                    print()
        finally:
            readline.write_history_file(history)

    def onecmd(self, line: str) -> bool:
        """Run one line; return whether the prompt ends."""
        command = line.strip()
        if command in END:
            if line == "EOF" and sys.stdin.isatty():
                print()
            return True
        if command:
            request = Request(kind="prompt", words=(line,))
            call(self._deployment, request, *raw_output())
        return False

    def completenames(self, text: str, *ignored: object) -> list[str]:
        """Return the commands and nodes that begin with `text`."""
        return _matching([*self._commands, *self._nodes], text)

    def completedefault(self, *words: object) -> list[str]:
        """Return the nodes that begin with the word at the cursor."""
        return _matching(self._nodes, words[0])

    def complete_help(self, *words: object) -> list[str]:
        """Return the commands that begin with the word at the cursor."""
        return _matching(self._commands, words[0])


def _matching(names: list[str], prefix: object) -> list[str]:
    return [name for name in names if name.startswith(str(prefix))]


def _read(history: Path) -> None:
    try:
        readline.read_history_file(history)
    except OSError:
        history.touch()
