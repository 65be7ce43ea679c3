"""In the guest of a deployment: builds the network, then serves requests for ever.

usage: python -m testbed.deployments.agent FOLDER

Each request but `set` is carried out by a forked child in a session of its own, whose output the
agent hands on.

How it waits: on the real clock it sleeps between two looks for requests. On the virtual clock a
process that sleeps lets time pass, and one that computes does not; so without a request at work the
agent looks again at once. The keeper stops the guest as soon as nobody uses it: virtual time passes
only while a command runs.
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
from testbed.deployments.folder import Deployment, LivePlan
from testbed.deployments.mailbox import Answer, Mail, Request, mails
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.mininet_prompt import Prompt, commands
from testbed.network.netlink import enter_node
from testbed.network.reconfigure import change_network
from testbed.network.verify import verify
from testbed.plan.model import Network
from testbed.workers.host_files import named

LOOK_S = {
    "real": 0.02,
    "virtual": 1.0,
}  # between two looks for requests while others are at work, on the guest's clock
CHUNK = 1 << 16
KEPT_VARIABLES = ("PATH", "HOME", "LANG")


@dataclass
class Job:
    """A request at work. `pipes` leads from the read ends of its output to the names of its
    files.
    """

    mail: Mail
    pid: int
    end: int  # pidfd
    pipes: dict[int, str]
    sent: set[str] = field(default_factory=set)


class Agent:
    """Serves the requests of one deployment."""

    def __init__(self, deployment: Deployment, plan: LivePlan, network: BuiltNetwork) -> None:
        self._folder, self._virtual, self._network = (
            deployment.requests,
            plan.clock == "virtual",
            network,
        )
        self._look_s = LOOK_S[plan.clock]
        self._names = node_names(plan.network)
        self._seen: set[str] = set()
        self._jobs: list[Job] = []
        self._selector = selectors.DefaultSelector()
        self._orphans: set[int] = set()  # pipes that a command's descendants still hold

    def serve(self) -> NoReturn:
        """For ever."""
        while True:
            for mail in mails(self._folder):
                if mail.identifier not in self._seen:
                    self._seen.add(mail.identifier)
                    self._begin(mail)
            if self._jobs:
                self._signal()
                for key, _events in self._selector.select(self._look_s):
                    self._event(key.fd)
            elif not self._virtual:
                time.sleep(self._look_s)

    def _begin(self, mail: Mail) -> None:
        try:
            request = mail.request()
            if request.kind == "set":
                assert request.network is not None
                change_network(self._network, request.network)
                self._answer(mail, 0)
            else:
                self._fork(mail, lambda: self._carry_out(request))
        except TestbedError as error:
            mail.append("err", f"{error}\n".encode())
            self._answer(mail, error.exit_status)
        except Exception:  # whatever it is, the sender has to know
            mail.append("err", traceback.format_exc().encode())
            self._answer(mail, 1)

    def _answer(self, mail: Mail, status: int) -> None:
        mail.put("answer", Answer(status=status, time_ns=time.time_ns()).model_dump_json())

    def _fork(self, mail: Mail, work: Callable[[], int]) -> None:
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(out_end, 1)
            os.dup2(err_end, 2)
            os._exit(_status_of(work))
        os.close(out_end)
        os.close(err_end)
        job = Job(mail, pid, os.pidfd_open(pid), {out: "out", err: "err"})
        for fd in (job.end, out, err):
            self._selector.register(fd, selectors.EVENT_READ)
        self._jobs.append(job)

    def _carry_out(self, request: Request) -> int:
        if request.kind == "prompt":
            Prompt(self._network, self._names).onecmd(request.words[0])
            return 0
        if request.kind == "verify":
            for check in verify(self._network, virtual=self._virtual, quick=request.quick):
                print(json.dumps(check.record()), flush=True)
            return 0
        return self._execute(request.node, request.words)

    def _execute(self, node: str, words: tuple[str, ...]) -> int:
        """The child becomes the command, on `node`."""
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        enter_node(self._network.pid(self._names.get(node, node)), node)
        try:
            os.execvpe(words[0], words, environment)
        except FileNotFoundError:
            print(f"{words[0]}: there is no such command", file=sys.stderr)
            return 127
        except OSError as error:
            print(f"{words[0]}: it cannot be executed: {error.strerror}", file=sys.stderr)
            return 126

    def _signal(self) -> None:
        for job in self._jobs:
            for kind, number in (("interrupt", signal.SIGINT), ("kill", signal.SIGKILL)):
                if kind not in job.sent and job.mail.file(kind).exists():
                    job.sent.add(kind)
                    with suppress(ProcessLookupError):  # it has just ended
                        os.killpg(job.pid, number)

    def _event(self, fd: int) -> None:
        if fd in self._orphans:
            if not os.read(fd, CHUNK):
                self._orphans.discard(fd)
                self._close(fd)
            return
        for job in self._jobs:
            if fd == job.end:
                self._end(job)
            elif fd in job.pipes:
                self._hand_on(job, fd)

    def _hand_on(self, job: Job, fd: int) -> None:
        data = os.read(fd, CHUNK)
        if data:
            job.mail.append(job.pipes[fd], data)
        else:
            del job.pipes[fd]
            self._close(fd)

    def _end(self, job: Job) -> None:
        """Hand on what it printed last. What its descendants print later is read, so that they can,
        and dropped.
        """
        for fd in list(job.pipes):
            os.set_blocking(fd, False)
            try:
                while fd in job.pipes:
                    self._hand_on(job, fd)
            except BlockingIOError:
                self._orphans.add(fd)
        self._jobs.remove(job)
        self._close(job.end)
        _pid, status = os.waitpid(job.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._answer(job.mail, code if code >= 0 else 128 - code)

    def _close(self, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)


def node_names(network: Network) -> dict[str, str]:
    """Nodes by the names that people use: hosts by theirs, border routers by their datacenter's."""
    routers = {dc.name: dc.router for dc in network.datacenters}
    return routers | {host.name: host.node for host in network.hosts}


def _status_of(work: Callable[[], int]) -> int:
    """Carry out `work` in a child: its exit status, whatever happens."""
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
    """Build the network of `folder`, tell that it stands, and serve."""
    deployment = Deployment(Path(folder))
    plan = deployment.read_plan()
    try:
        with named(Path("/run"), plan.network), build_network(plan.network) as network:
            for node in network.mininet.values():
                # one for all commands to come, each of which is a fork of this process
                node.start_shell()
            time.sleep(
                max(0.0, 1.0 - time.monotonic())
            )  # ping takes second 0 for "not sent yet", and does not wait
            ready = {"nodes": list(network.mininet.keys()), "commands": commands()}
            deployment.write(deployment.last_time, str(time.time_ns()))
            deployment.write(deployment.ready, json.dumps(ready))
            Agent(deployment, plan, network).serve()
    except TestbedError as error:
        print(error)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main(*sys.argv[1:])
