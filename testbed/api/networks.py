"""Deploy networks, and use and change them while they run."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.api.arguments import as_topology, sort_settings
from testbed.api.unfaithful import warn_unfaithful
from testbed.core.errors import GuestLost
from testbed.deployments import service
from testbed.deployments.client import INTERRUPTED, call, exec_request
from testbed.deployments.folder import Deployment
from testbed.deployments.input_source import BytesSource
from testbed.deployments.reconfigure import change
from testbed.deployments.status import DeploymentStatus, status_of
from testbed.execution.cleanup import reap
from testbed.execution.progress import RunProgress, as_progress
from testbed.execution.supervise import Progress
from testbed.plan.model import Clock
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology


class DeployedNetwork:
    """A network that runs until it is destroyed; as a context manager, until the block ends.

    Notebooks display a deployment as its state, its hosts and its links.

    Attributes:
        name: Name of the deployment, also for ``testbed topo``.
    """

    def __init__(self, deployment: Deployment) -> None:
        """Control the network of `deployment`."""
        self._deployment = deployment
        self.name = deployment.name

    def __repr__(self) -> str:
        return f"DeployedNetwork({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    def _repr_html_(self) -> str:
        from testbed.report import notebook  # noqa: PLC0415 (only notebooks)

        status = self.inspect()
        hosts = [(host.name, host.datacenter, host.address) for host in status.hosts]
        links: list[tuple[object, ...]] = []
        for link in status.links:
            rate_gbps = link.rate_bps / 1e9
            links.append((link.source, link.target, rate_gbps, link.delay_ms, link.loss))
        parts = [
            notebook.paragraph(f"{status.name}: {status.state}, {status.clock} clock"),
            notebook.rows_html(("host", "datacenter", "address"), hosts),
            notebook.rows_html(("from", "to", "rate (Gbit/s)", "delay (ms)", "loss"), links),
        ]
        return notebook.box(parts)

    def exec(
        self,
        host: str,
        words: Sequence[str],
        *,
        check: bool = False,
        input: str | bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, and wait for the command to end.

        Args:
            host: Name of a host, or of a datacenter (meaning its border router).
            words: The command and its arguments.
            check: Whether an exit status other than 0 raises an exception.
            input: The command's input; None: the input is empty.

        Returns:
            Exit status and output of the command, as from `subprocess.run`.

        Raises:
            InputError: The host does not exist, or `words` is empty.
            GuestLost: The deployment has ended.
            subprocess.CalledProcessError: The command failed, and `check` is true.
            KeyboardInterrupt: Ctrl-C; the command was ended.

        Example:
            ```python
            print(net.exec("iowa-h0", ["ping", "-c1", "ohio-h0"]).stdout)
            ```
        """
        self._check_exists()
        source = None
        if input is not None:
            source = BytesSource(input.encode() if isinstance(input, str) else input)
        request = exec_request(self._deployment, host, words, has_input=source is not None)
        out, err = io.BytesIO(), io.BytesIO()
        status = call(self._deployment, request, out, err, source, warn_unfaithful)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        completed = subprocess.CompletedProcess(
            args=list(words),
            returncode=status,
            stdout=out.getvalue().decode(errors="replace"),
            stderr=err.getvalue().decode(errors="replace"),
        )
        if check:
            completed.check_returncode()
        return completed

    def set(self, settings: Mapping[str, Any]) -> None:
        """Change links of the network without losing packets in flight.

        Args:
            settings: New values by key, such as {"wan.iowa-ohio.delay": "20 ms"}.

        Raises:
            InputError: A setting is wrong, or cannot change in a running network.
            RunError: The guest's kernel rejected a value.
            GuestLost: The deployment has ended.

        Example:
            ```python
            net.set({"wan.iowa-ohio.delay": "20 ms", "wan.iowa-ohio.loss": "1 %"})
            ```
        """
        self._check_exists()
        change(self._deployment, sort_settings(settings, ["topology"])["topology"])

    def inspect(self) -> DeploymentStatus:
        """Return the state, clock, uptime, hosts and links of the deployment.

        Returns:
            Status of the deployment, with the current settings of every link.

        Example:
            ```python
            print(net.inspect().links[0].delay_ms)
            ```
        """
        return status_of(self._deployment)

    def destroy(self) -> None:
        """End the deployment, and remove its files."""
        service.destroy(self._deployment)

    def _check_exists(self) -> None:
        """Check that the deployment has not been destroyed.

        Raises:
            GuestLost: The deployment has been destroyed.
        """
        if not self._deployment.path.is_dir():
            raise GuestLost(f"the deployment {self.name} has been destroyed")


def deploy(
    topology: str | Path | Mapping[str, Any] | Topology,
    *,
    name: str | None = None,
    clock: Clock = "real",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    guest_memory: str | None = None,
    progress: Progress | Callable[[RunProgress], object] | None = None,
) -> DeployedNetwork:
    """Build the network of a topology in a guest that runs until it is destroyed.

    The end of a ``with`` block destroys the network. Without a block the network outlives this
    process; ``testbed topo destroy`` ends it.

    Args:
        topology: As for `run`.
        name: Name of the deployment; None: the name of the topology.
        clock: Clock of the guest, real or virtual.
        settings: Values of the topology to change, such as {"wan.iowa-ohio.delay": "20 ms"}.
        seed: Random seed.
        guest_memory: Memory of the guest, such as 2 GiB; None: derived from the number of hosts.
        progress: As for `run`.

    Returns:
        The running network.

    Raises:
        InputError: An argument is wrong, or the name is taken.
        MachineError: This machine lacks a requirement of the guest.
        RunError: The network could not be built; nothing is left running.
        KeyboardInterrupt: Ctrl-C; nothing is left running.

    Example:
        ```python
        with testbed.deploy("two-sites") as net:
            net.set({"wan.iowa-ohio.delay": "20 ms"})
            print(net.exec("iowa-h0", ["ping", "-c1", "ohio-h0"]).stdout)
        ```
    """
    reap()
    overrides = sort_settings(settings or {}, ["topology"])
    model = as_topology(topology, overrides["topology"])
    options = RunOptions(clock=clock, seed=seed, guest_memory=guest_memory)
    deployment = service.deploy(
        name or model.name,
        model,
        clock=options.clock,
        seed=options.seed,
        memory_bytes=options.guest_memory,
        progress=as_progress(progress),
    )
    return DeployedNetwork(deployment)
