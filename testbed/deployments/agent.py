"""In the guest of a deployment: build the network, then serve requests without end.

usage: python -m testbed.deployments.agent FOLDER

Each request but `set` is carried out by a forked child in a separate session, whose output the
agent hands on.

How the agent waits: on the real clock, the agent sleeps between two looks for requests. On the
virtual clock, a process that sleeps lets time pass, and a process that computes does not; so
without a request at work the agent looks again at once. The keeper stops the guest as soon as
nobody uses it: virtual time passes only while a command runs.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from testbed.core.errors import TestbedError
from testbed.deployments.folder import Deployment, DeploymentPlan, Ready
from testbed.deployments.requests import (
    INTERRUPT,
    KILL,
    STDERR,
    STDOUT,
    Reply,
    Request,
    RequestExchange,
)
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.mininet_prompt import Prompt, commands
from testbed.network.netlink import enter_node
from testbed.network.reconfigure import change_network
from testbed.network.verify import verify
from testbed.plan.model import Network
from testbed.workers.host_files import named

# Between two looks for requests while others are at work, on the guest's clock.
LOOK_S = {"real": 0.02, "virtual": 1.0}
CHUNK_BYTES = 1 << 16
KEPT_VARIABLES = ("PATH", "HOME", "LANG")
SIGNALS = {INTERRUPT: signal.SIGINT, KILL: signal.SIGKILL}
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit status as a shell has it


@dataclass
class _Job:
    """A request at work.

    Attributes:
        exchange: the request.
        pid: the child that carries out the request; it leads a session.
        end: a pidfd of the child.
        pipes: read ends of the child's output that are open, each with its stream.
        signalled: signals of the sender that were passed on.
    """

    exchange: RequestExchange
    pid: int
    end: int
    pipes: dict[int, str]
    signalled: set[str] = field(default_factory=set)


class Agent:
    """Serves the requests of one deployment."""

    def __init__(self, deployment: Deployment, plan: DeploymentPlan, network: BuiltNetwork) -> None:
        self._channel = deployment.channel
        self._virtual = plan.clock == "virtual"
        self._network = network
        self._look_s = LOOK_S[plan.clock]
        self._nodes = node_names(plan.network)
        self._seen: set[str] = set()
        self._jobs: list[_Job] = []
        self._selector = selectors.DefaultSelector()
        self._orphans: set[int] = set()  # pipes that descendants of an ended child still hold

    def serve(self) -> NoReturn:
        """Serve requests without end."""
        while True:
            for exchange in self._channel.exchanges():
                if exchange.identifier not in self._seen:
                    self._seen.add(exchange.identifier)
                    self._begin(exchange)
            if self._jobs:
                self._pass_on_signals()
                for key, _events in self._selector.select(self._look_s):
                    self._handle(key.fd)
            elif not self._virtual:
                time.sleep(self._look_s)

    def _begin(self, exchange: RequestExchange) -> None:
        try:
            request = exchange.request()
            if request.kind == "set":
                assert request.network is not None
                change_network(self._network, request.network)
                self._reply(exchange, 0)
            else:
                self._fork(exchange, lambda: self._carry_out(request))
        except TestbedError as error:
            exchange.write(STDERR, f"{error}\n".encode())
            self._reply(exchange, error.exit_status)
        except Exception:  # the sender has to know, whatever it is
            exchange.write(STDERR, traceback.format_exc().encode())
            self._reply(exchange, 1)

    def _reply(self, exchange: RequestExchange, status: int) -> None:
        exchange.answer(Reply(status=status, time_ns=time.time_ns()))

    def _fork(self, exchange: RequestExchange, work: Callable[[], int]) -> None:
        """Start a child that carries out `work` and ends with the exit status that it returns."""
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(out_end, 1)
            os.dup2(err_end, 2)
            os._exit(_status_of(work))

        os.close(out_end)
        os.close(err_end)
        end = os.pidfd_open(pid)
        for fd in (end, out, err):
            self._selector.register(fd, selectors.EVENT_READ)

        self._jobs.append(_Job(exchange, pid, end, {out: STDOUT, err: STDERR}))

    def _carry_out(self, request: Request) -> int:
        """In a child: carry out a request, and return its exit status."""
        if request.kind == "prompt":
            prompt = Prompt(self._network, self._nodes)
            prompt.onecmd(request.words[0])
            return 0
        if request.kind == "verify":
            for check in verify(self._network, virtual=self._virtual, quick=request.quick):
                print(json.dumps(check.record()), flush=True)
            return 0
        return self._execute(request.node, request.words)

    def _execute(self, node: str, words: tuple[str, ...]) -> int:
        """In a child: become a command on a node; return only if that is impossible."""
        kept = [name for name in KEPT_VARIABLES if name in os.environ]
        environment = {name: os.environ[name] for name in kept}
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
        """Handle a descriptor that is ready."""
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
        """Read what descendants of an ended child print, so that they can, and drop it."""
        if not os.read(fd, CHUNK_BYTES):
            self._orphans.discard(fd)
            self._close(fd)

    def _hand_on(self, job: _Job, fd: int) -> None:
        data = os.read(fd, CHUNK_BYTES)
        if data:
            job.exchange.write(job.pipes[fd], data)
        else:
            del job.pipes[fd]
            self._close(fd)

    def _end(self, job: _Job) -> None:
        """Hand on what an ended child printed last, and reply."""
        for fd in list(job.pipes):
            os.set_blocking(fd, False)
            try:
                while fd in job.pipes:
                    self._hand_on(job, fd)
            except BlockingIOError:
                self._orphans.add(fd)

        self._jobs.remove(job)
        self._close(job.end)
        _pid, wait_status = os.waitpid(job.pid, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        if status < 0:  # killed by a signal
            status = 128 - status

        self._reply(job.exchange, status)

    def _close(self, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)


def node_names(network: Network) -> dict[str, str]:
    """Give the kernel's names of nodes by the names that people use.

    Hosts go by their name, border routers by that of their datacenter.
    """
    nodes = {dc.name: dc.router for dc in network.datacenters}
    for host in network.hosts:
        nodes[host.name] = host.node
    return nodes


def _status_of(work: Callable[[], int]) -> int:
    """In a child: carry out `work`, and give its exit status, whatever happens."""
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
    """Build the network of a deployment, say that the network stands, and serve."""
    deployment = Deployment(Path(folder))
    plan = deployment.read_plan()

    try:
        with named(Path("/run"), plan.network), build_network(plan.network) as network:
            for node in network.mininet.values():
                # One shell for all commands to come, each of which is a fork of this process.
                node.start_shell()
            # ping takes second 0 for "not sent yet", and does not wait.
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
