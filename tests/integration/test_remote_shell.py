"""The remote shell of hosts, on loopback: output, input, status, and several hosts at once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.workers import remote_client, remote_shell

CLIENT = Path(remote_client.__file__)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server, whose commands run in `tmp_path` and have one variable."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = int(free.getsockname()[1])

    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as below nohup
        environment = {"PATH": os.environ["PATH"], "GREETING": "hello"}
        remote_shell.serve(environment, tmp_path, port=number)

    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", number)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)

        yield number
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def client(port: int, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the client as hosts do, on another port."""
    program = CLIENT.read_text().replace("PORT = 22", f"PORT = {port}")
    return subprocess.run(
        [sys.executable, "-I", "-c", program, *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_output_errors_status_and_place(port: int, tmp_path: Path) -> None:
    script = 'echo "$GREETING from $PWD"; echo wrong >&2; exit 7'
    done = client(port, "ssh", "-o", "BatchMode=yes", "-x", "me@localhost", script)
    assert done.stdout == f"hello from {tmp_path}\n"
    assert (done.stderr, done.returncode) == ("wrong\n", 7)


def test_input_is_passed_on(port: int) -> None:
    """Megabytes in both directions at the same time; without a command, a shell reads the input."""
    text = "0123456789abcdef" * 200_000
    done = client(port, "ssh", "localhost", "cat", text=text)
    assert (done.stdout == text, done.returncode) == (True, 0)
    assert client(port, "rsh", "localhost", text="echo $((6 * 7))\nexit 3\n").stdout == "42\n"
    assert client(port, "ssh", "-n", "localhost", "wc -c", text="ignored").stdout.strip() == "0"


def test_words_after_the_host_are_the_command(port: int) -> None:
    assert client(port, "ssh", "localhost", "-q", "echo", "-n", "a  b").stdout == "a b"
    assert client(port, "ssh", "-p22", "-l", "me", "localhost", "--", "echo", "c").stdout == "c\n"


def test_a_signal_of_the_command(port: int) -> None:
    assert client(port, "ssh", "localhost", "kill -9 $$").returncode == 128 + 9


def test_the_command_is_hung_up_with_its_client(port: int, tmp_path: Path) -> None:
    """Also below nohup: the commands of a login do not ignore SIGHUP."""
    program = CLIENT.read_text().replace("PORT = 22", f"PORT = {port}")
    command = f"trap 'echo over > {tmp_path}/over; exit' HUP; touch {tmp_path}/begun; "
    command += "while :; do sleep 0.05; done"
    process = subprocess.Popen([sys.executable, "-I", "-c", program, "ssh", "localhost", command])
    wait_for(tmp_path / "begun")
    process.kill()
    process.wait()
    wait_for(tmp_path / "over")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_unknown_hosts(port: int) -> None:
    done = client(port, "ssh", "no-such-host.invalid", "true")
    assert done.returncode == 255
    assert "Could not resolve hostname no-such-host.invalid" in done.stderr


def test_several_hosts(port: int) -> None:
    """Lines are labelled; %h and %n are the host and its number; -S gives the largest status."""
    command = "echo %h %n; printf end; exit %n"
    done = client(port, "pdsh", "-S", "-R", "ssh", "-w", "localhost,127.0.0.1", command)
    assert sorted(done.stdout.splitlines()) == [
        "127.0.0.1: 127.0.0.1 1",
        "127.0.0.1: end",
        "localhost: end",
        "localhost: localhost 0",
    ]
    assert done.returncode == 1
    assert client(port, "pdsh", "-N", "-w", "localhost", command).stdout == "localhost 0\nend"


def test_another_protocol_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b", ["a", "b"]),
        ("h[0-2],x", ["h0", "h1", "h2", "x"]),
        ("n[08-10,20]-ib", ["n08-ib", "n09-ib", "n10-ib", "n20-ib"]),
        ("", []),
    ],
)
def test_lists_of_hosts(text: str, names: list[str]) -> None:
    assert remote_client.host_names(text) == names


def test_client_and_server_agree() -> None:
    for name in ("PORT", "COMMAND", "INPUT", "OUTPUT", "ERRORS", "STATUS"):
        assert getattr(remote_client, name) == getattr(remote_shell, name)

    assert remote_client.HEADER.format == remote_shell.HEADER.format
