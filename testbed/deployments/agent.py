"""Build the network of a deployment inside the guest, then serve requests until the guest ends.

usage: python -m testbed.deployments.agent FOLDER

Each request except `set` is carried out by a forked child in a new session; the agent relays the
child's output.

How the agent waits depends on the clock. On the real clock, the agent sleeps between polls for
requests. On the virtual clock, a sleeping process lets time pass, and a computing process does not;
so without a request in progress the agent polls without sleeping. The keeper stops the guest as
soon as nobody uses the network, so virtual time passes only while a command runs.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from testbed.core.errors import TestbedError
from testbed.core.linux import CLONE_NEWUTS, setns, unshare
from testbed.deployments.folder import Deployment, DeploymentPlan, Ready
from testbed.deployments.names import node_names
from testbed.deployments.requests import (
    INTERRUPT,
    KILL,
    STDERR,
    Reply,
    Request,
    RequestExchange,
)
from testbed.deployments.streams import Feed, open_streams
from testbed.deployments.traffic import Traffic, TrafficWatch
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.mininet_prompt import Prompt, commands
from testbed.network.netns import enter_node
from testbed.network.reconfigure import change_network
from testbed.network.verify import verify, verify_fastest
from testbed.plan.model import Network
from testbed.workers.host_files import named

# Time between polls for requests while other requests are in progress, on the guest's clock.
LOOK_S = {"real": 0.02, "virtual": 1.0}
CHUNK_BYTES = 1 << 16
# Time between looks for input, on the guest's clock.
SHORTEST_INPUT_PAUSE_S = 0.001
LONGEST_INPUT_PAUSE_S = 0.1
KEPT_VARIABLES = ("PATH", "HOME", "LANG")
SIGNALS = {INTERRUPT: signal.SIGINT, KILL: signal.SIGKILL}
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit status, as in a shell


@dataclass
class _Job:
    """A request in progress.

    Attributes:
        exchange: the request.
        pid: the child that carries out the request, leader of a session.
        end: pidfd of the child.
        pipes: open read ends of the child's output pipes, each with its stream.
        feed: the child's input; None for a child without input.
        node: kernel's name of the node of a command; empty for other requests.
        before: the network's counters before the command; None for other requests.
        signalled: signals of the sender that were forwarded.
    """

    exchange: RequestExchange
    pid: int
    end: int
    pipes: dict[int, str]
    feed: Feed | None = None
    node: str = ""
    before: Traffic | None = None
    signalled: set[str] = field(default_factory=set)


class Agent:
    """Server of the requests of one deployment."""

    def __init__(self, deployment: Deployment, plan: DeploymentPlan, network: BuiltNetwork) -> None:
        self._channel = deployment.channel
        self._virtual = plan.clock == "virtual"
        self._network = network
        self._look_s = LOOK_S[plan.clock]
        self._nodes = node_names(plan.network)
        self._traffic: TrafficWatch | None = None
        self._seen: set[str] = set()
        self._jobs: list[_Job] = []
        self._selector = selectors.DefaultSelector()
        self._input_pause_s = SHORTEST_INPUT_PAUSE_S
        self._orphans: set[int] = set()  # pipes that descendants of an ended child hold open

    def serve(self) -> NoReturn:
        """Serve requests until the guest ends."""
        while True:
            for exchange in self._channel.exchanges():
                if exchange.identifier not in self._seen:
                    self._seen.add(exchange.identifier)
                    self._begin(exchange)
            if self._jobs:
                self._pass_on_signals()
                for key, events in self._selector.select(self._pause_s()):
                    if events & selectors.EVENT_READ:
                        self._handle(key.fd)
            elif not self._virtual:
                time.sleep(self._look_s)

    def _pause_s(self) -> float:
        """Return how long to wait for output, after passing on the input that has arrived.

        While a command may still get input, the steps of the virtual clock grow from short ones, so
        that little time passes before input that is on its way arrives.
        """
        feeds = [job.feed for job in self._jobs if job.feed is not None and job.feed.is_open]
        if not feeds:
            return self._look_s
        has_passed = [self._pass_input(feed) for feed in feeds]
        if any(has_passed) or not self._virtual:
            self._input_pause_s = SHORTEST_INPUT_PAUSE_S
        else:
            self._input_pause_s = min(2 * self._input_pause_s, LONGEST_INPUT_PAUSE_S)
        return min(self._input_pause_s, self._look_s)

    def _pass_input(self, feed: Feed) -> bool:
        """Pass on input that has arrived; wake up once the child takes more, if it is too much."""
        has_passed = feed.pass_on() or (self._virtual and feed.await_more())
        self._await_room(feed.fd, is_blocked=feed.is_blocked)
        return has_passed

    def _await_room(self, fd: int, *, is_blocked: bool) -> None:
        """Watch the input of a child for room, in addition to the output of a terminal."""
        key = self._selector.get_map().get(fd)
        before = 0 if key is None else key.events
        events = before & ~selectors.EVENT_WRITE
        if is_blocked:
            events |= selectors.EVENT_WRITE
        if events == before:
            return
        if not before:
            self._selector.register(fd, events)
        elif events:
            self._selector.modify(fd, events)
        else:
            self._selector.unregister(fd)

    def _begin(self, exchange: RequestExchange) -> None:
        try:
            request = exchange.request()
            if request.kind == "set":
                assert request.network is not None
                change_network(self._network, request.network)
                self._reply(exchange, 0)
            else:
                self._fork(exchange, request)
        except TestbedError as error:
            exchange.write(STDERR, f"{error}\n".encode())
            self._reply(exchange, error.exit_status)
        except Exception:  # the sender must learn of every failure
            exchange.write(STDERR, traceback.format_exc().encode())
            self._reply(exchange, 1)

    def _reply(self, exchange: RequestExchange, status: int, warnings: Sequence[str] = ()) -> None:
        reply = Reply(status=status, time_ns=time.time_ns(), warnings=tuple(warnings))
        exchange.answer(reply)

    def _fork(self, exchange: RequestExchange, request: Request) -> None:
        """Fork a child that carries out a request, and relay its input and output."""
        streams = open_streams(exchange, request)
        node, before = "", None
        if request.kind == "exec":
            node = self._nodes.get(request.node, request.node)
            before = self._counters(node)
        pid = os.fork()
        if pid == 0:
            for job in self._jobs:
                if job.feed is not None:
                    job.feed.close()  # else another child's input would not end
            streams.take()
            os._exit(_status_of(lambda: self._carry_out(request)))

        streams.close_ends()
        end = os.pidfd_open(pid)
        for fd in (end, *streams.outputs):
            self._selector.register(fd, selectors.EVENT_READ)

        self._jobs.append(_Job(exchange, pid, end, streams.outputs, streams.feed, node, before))

    def _carry_out(self, request: Request) -> int:
        """Carry out a request in a child, and return the exit status."""
        if request.kind == "prompt":
            prompt = Prompt(self._network, self._nodes)
            prompt.onecmd(request.words[0])
            return 0
        if request.kind == "verify":
            checks = verify(self._network, virtual=self._virtual, quick=request.quick)
            if request.fastest:
                checks = verify_fastest(self._network, virtual=self._virtual)
            for check in checks:
                print(json.dumps(check.record()), flush=True)
            return 0
        return self._execute(request)

    def _execute(self, request: Request) -> int:
        """Execute a command on a node in a child; return an exit status only if that fails."""
        node, words = request.node, request.words
        kept = [name for name in KEPT_VARIABLES if name in os.environ]
        environment = {name: os.environ[name] for name in kept}
        if request.terminal:
            environment["TERM"] = request.terminal
        kernel_name = self._nodes.get(node, node)
        enter_node(self._network.pid(kernel_name), node)
        program = words[0]

        try:
            os.execvpe(program, words, environment)
        except FileNotFoundError:
            print(f"{program}: command not found", file=sys.stderr)
            return NOT_FOUND
        except OSError as error:
            print(f"{program}: cannot execute the file: {error.strerror}", file=sys.stderr)
            return NOT_EXECUTABLE

    def _pass_on_signals(self) -> None:
        for job in self._jobs:
            for name, number in SIGNALS.items():
                if name in job.signalled or not job.exchange.is_signalled(name):
                    continue
                job.signalled.add(name)
                with suppress(ProcessLookupError):  # the child has just ended
                    os.killpg(job.pid, number)

    def _handle(self, fd: int) -> None:
        """Handle a ready file descriptor."""
        if fd in self._orphans:
            self._drain(fd)
            return

        for job in self._jobs:
            if fd == job.end:
                self._end(job)
                return
            if fd in job.pipes:
                self._hand_on(job, fd)
                return

    def _drain(self, fd: int) -> None:
        """Discard the output of an ended child's descendants, to keep them from blocking."""
        if not _read(fd):
            self._orphans.discard(fd)
            self._close(fd)

    def _hand_on(self, job: _Job, fd: int) -> None:
        data = _read(fd)
        if data:
            job.exchange.write(job.pipes[fd], data)
        else:
            if job.feed is not None and job.feed.fd == fd:
                job.feed.close()
            del job.pipes[fd]
            self._close(fd)

    def _end(self, job: _Job) -> None:
        """Relay the remaining output of an ended child, and write the reply."""
        for fd in list(job.pipes):
            os.set_blocking(fd, False)
            try:
                while fd in job.pipes:
                    self._hand_on(job, fd)
            except BlockingIOError:
                self._orphans.add(fd)

        self._jobs.remove(job)
        if job.feed is not None:
            self._await_room(job.feed.fd, is_blocked=False)
            job.feed.close()
        self._close(job.end)
        _pid, wait_status = os.waitpid(job.pid, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        if status < 0:  # killed by a signal
            status = 128 - status

        self._reply(job.exchange, status, self._warnings(job))

    def _warnings(self, job: _Job) -> list[str]:
        if job.before is None:
            return []
        now = self._counters(job.node)
        assert now is not None
        return now.warnings_since(job.before, self._network.plan)

    def _counters(self, node: str) -> Traffic | None:
        """Return the counters of the network, and of the TCP connections of a node."""
        if self._traffic is None:
            self._traffic = TrafficWatch(self._network)
        return self._traffic.read(node)

    def _close(self, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)


def _start_shells(network: BuiltNetwork, plan: Network) -> None:
    """Start a shell on each node for all later commands of the prompt.

    A shell has the UTS namespace, and so the host name, of the thread that starts the shell.
    """
    names = {node: name for name, node in node_names(plan).items()}
    own = os.open("/proc/thread-self/ns/uts", os.O_RDONLY)
    for kernel_name, node in network.mininet.items():
        unshare(CLONE_NEWUTS)
        socket.sethostname(names.get(kernel_name, kernel_name))
        node.start_shell()
    setns(own, CLONE_NEWUTS)
    os.close(own)


def _read(fd: int) -> bytes:
    """Read from a pipe or a terminal; empty at its end.

    Raises:
        BlockingIOError: there is nothing to read yet.
    """
    try:
        return os.read(fd, CHUNK_BYTES)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno != errno.EIO:  # a terminal that no process has open any more
            raise
        return b""


def _status_of(work: Callable[[], int]) -> int:
    """Run `work` in a child, and return its exit status, even after an exception."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        status = work()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except TestbedError as error:
        print(error, file=sys.stderr)
        status = error.exit_status
    except BaseException:
        traceback.print_exc()
        status = 1

    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main(folder: str) -> None:
    """Build the network of a deployment, report that the network is ready, and serve requests."""
    deployment = Deployment(Path(folder))
    plan = deployment.read_plan()

    try:
        with named(Path("/run"), plan.network), build_network(plan.network) as network:
            _start_shells(network, plan.network)
            # ping interprets second 0 as "not sent yet", and does not wait.
            time.sleep(max(0.0, 1.0 - time.monotonic()))
            nodes = list(network.mininet.keys())
            deployment.write_last_time_ns(time.time_ns())
            deployment.write_ready(Ready(nodes=nodes, commands=commands()))
            Agent(deployment, plan, network).serve()
    except TestbedError as error:
        print(error)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main(*sys.argv[1:])
