"""The programs ``ssh``, ``rsh`` and ``pdsh`` of a host: run a command on other hosts.

usage: python -I remote_client.py ssh|rsh|pdsh ARGUMENT...

Launchers such as mpirun and deepspeed start their processes on other hosts with these programs.
They take the options of the real programs and ignore those of users, keys and encryption. This file
imports nothing of the testbed, so that it starts quickly in any Python.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence

PORT = 22  # these as in testbed.workers.remote_shell
HEADER = struct.Struct("!cI")
COMMAND, INPUT, OUTPUT, ERRORS, STATUS = b"C", b"I", b"O", b"E", b"X"
CHUNK_BYTES = 1 << 16
FAILED = 255  # exit status of ssh if it cannot connect
SSH_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"
PDSH_WITH_VALUE = "wxRtuflgF"
# A host that has just started may not listen yet.
ATTEMPTS, RETRY_S = 50, 0.1

Write = Callable[[bytes, bytes], None]  # of a kind (OUTPUT or ERRORS) and data


def ssh(words: Sequence[str]) -> int:
    """Run the command line of ``ssh`` or ``rsh``, and return the exit status."""
    _options, flags, rest = read_words(words, SSH_WITH_VALUE, rest_after_first=True)
    if "V" in flags:
        print("ssh of the testbed", file=sys.stderr)
        return 0

    if not rest:
        print("usage: ssh [OPTION]... [USER@]HOST [COMMAND]...", file=sys.stderr)
        return FAILED

    host, *command = rest
    return run(host, " ".join(command) or "exec /bin/sh", "n" not in flags, write_plain)


def pdsh(words: Sequence[str]) -> int:
    """Run the command line of ``pdsh``, and return the exit status: 0, or with -S the largest."""
    options, flags, command = read_words(words, PDSH_WITH_VALUE)
    excluded = set(host_names(options.get("x", "")))
    hosts = [host for host in host_names(options.get("w", "")) if host not in excluded]
    if not hosts or not command:
        print("usage: pdsh -w HOST,... [OPTION]... COMMAND", file=sys.stderr)
        return 1

    statuses = [0] * len(hosts)

    def run_on(number: int, host: str) -> None:
        text = with_names(" ".join(command), host, number)
        write = write_plain if "N" in flags else Labelled(host).write
        statuses[number] = run(host, text, False, write)
        write(OUTPUT, b"")
        write(ERRORS, b"")

    threads = [threading.Thread(target=run_on, args=pair) for pair in enumerate(hosts)]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    return max(statuses) if "S" in flags else 0


def read_words(
    words: Sequence[str], with_value: str, *, rest_after_first: bool = False
) -> tuple[dict[str, str], set[str], list[str]]:
    """Return options with values, options without, and the other words, as getopt does.

    Args:
        words: the words of a command line.
        with_value: the letters of options that have a value.
        rest_after_first: whether options may follow the first other word (the host), and the
            command begins with the second.
    """
    options: dict[str, str] = {}
    flags: set[str] = set()
    rest: list[str] = []
    most = 1 if rest_after_first else 0
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("-") or word == "-":
            if len(rest) >= most:
                return options, flags, [*rest, *words[position:]]

            rest.append(word)
            position += 1
            continue

        position += 1
        if word == "--":
            return options, flags, [*rest, *words[position:]]

        for place, letter in enumerate(word[1:], start=1):
            if letter not in with_value:
                flags.add(letter)
                continue

            value = word[place + 1 :]
            if not value and position < len(words):
                value = words[position]
                position += 1

            options[letter] = value
            break

    return options, flags, rest


def host_names(text: str) -> list[str]:
    """Return the hosts of a list such as ``a,b[0-2,7]``."""
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
        if match is None:
            names.append(part)
            continue

        before, ranges, after = match.groups()
        for item in ranges.split(","):
            first, _, last = item.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names.append(f"{before}{number:0{len(first)}}{after}")

    return names


def with_names(command: str, host: str, number: int) -> str:
    """Return a command with pdsh's ``%h`` (host), ``%n`` (number), ``%u`` and ``%%`` filled in."""
    values = {"%": "%", "h": host, "n": str(number), "u": os.environ.get("USER", "root")}
    return re.sub(r"%([%hnu])", lambda match: values[match[1]], command)


def run(host: str, command: str, with_input: bool, write: Write) -> int:
    """Run a command on a host, and return the command's exit status.

    Args:
        host: name or address, which may follow a user and ``@``.
        command: the command, for a shell.
        with_input: whether the command gets the standard input of this process.
        write: called with output and errors of the command.
    """
    name = host.rpartition("@")[2]
    connection = connect(name, write)
    if connection is None:
        return FAILED

    with connection:
        send(connection, COMMAND, command.encode())
        if with_input:
            threading.Thread(target=feed, args=(connection,), daemon=True).start()
        else:
            send(connection, INPUT, b"")

        messages = connection.makefile("rb")
        while True:
            header = messages.read(HEADER.size)
            if len(header) < HEADER.size:
                write(ERRORS, f"ssh: connection to {name} closed by remote host\n".encode())
                return FAILED

            kind, length = HEADER.unpack(header)
            data = messages.read(length)
            if kind == STATUS:
                return data[0]

            write(kind, data)


def connect(name: str, write: Write) -> socket.socket | None:
    """Return a connection to a host; None after an error message.

    Args:
        name: name of the host.
        write: called with the error message, as of ssh.
    """
    for attempt in range(ATTEMPTS):
        try:
            return socket.create_connection((name, PORT))
        except socket.gaierror:
            text = f"ssh: Could not resolve hostname {name}: Name or service not known\n"
            write(ERRORS, text.encode())
            return None
        except ConnectionRefusedError:
            if attempt < ATTEMPTS - 1:
                time.sleep(RETRY_S)
        except OSError as error:
            text = f"ssh: connect to host {name} port {PORT}: {error.strerror}\n"
            write(ERRORS, text.encode())
            return None

    text = f"ssh: connect to host {name} port {PORT}: Connection refused\n"
    write(ERRORS, text.encode())
    return None


def feed(connection: socket.socket) -> None:
    """Send the standard input of this process to the command."""
    try:
        while True:
            data = os.read(0, CHUNK_BYTES)
            send(connection, INPUT, data)
            if not data:
                return
    except OSError:  # no input, or the connection has ended
        return


def send(connection: socket.socket, kind: bytes, data: bytes) -> None:
    """Send a message."""
    connection.sendall(HEADER.pack(kind, len(data)) + data)


def write_plain(kind: bytes, data: bytes) -> None:
    """Write output or errors of a command to those of this process."""
    fd = 1 if kind == OUTPUT else 2
    while data:
        data = data[os.write(fd, data) :]


class Labelled:
    """Writer of whole lines, each after the name of its host."""

    _lock = threading.Lock()

    def __init__(self, host: str) -> None:
        self._label = f"{host}: ".encode()
        self._rest = {OUTPUT: b"", ERRORS: b""}

    def write(self, kind: bytes, data: bytes) -> None:
        """Write the whole lines so far.

        Args:
            kind: output or errors.
            data: what has arrived; empty: nothing follows, which ends the last line.
        """
        rest = self._rest[kind]
        if not data and rest:
            data = b"\n"
        *lines, self._rest[kind] = (rest + data).split(b"\n")
        with self._lock:
            for line in lines:
                write_plain(kind, self._label + line + b"\n")


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    exit_status = pdsh(arguments) if program == "pdsh" else ssh(arguments)
    sys.stdout.flush()
    os._exit(exit_status)  # a thread may be waiting for input
