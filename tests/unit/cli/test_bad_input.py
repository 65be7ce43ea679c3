"""Wrong input is refused with what is wrong, where, and what to do."""

from pathlib import Path

import pytest
from testbed.workloads.collectives.settings import Collectives

from testbed.core.errors import InputError
from testbed.plan.resolve import resolve
from testbed.spec import yaml_reader
from testbed.spec.options import RunOptions
from testbed.spec.overrides import Override, parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

LINK = "between: [iowa, ohio], rate: 10 Gbit/s, delay: 8 ms"
GOOD = f"""
datacenters:
  iowa: {{hosts: 2}}
  ohio: {{hosts: 2}}
wan:
  - {{{LINK}}}
"""


def message(tmp_path: Path, text: str) -> str:
    """What loading `text` as mine.yaml says, without the folder's name."""
    path = tmp_path / "mine.yaml"
    path.write_text(text.lstrip("\n"))
    with pytest.raises(InputError) as caught:
        Topology.load(path)
    assert caught.value.exit_status == 2
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_good_input_is_good(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert Topology.load(path).wan


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "microsoft-openai-four",
            "unknown topology 'microsoft-openai-four'\n  nearest: microsoft-openai-five",
        ),
        ("two-site", "unknown topology 'two-site'\n  nearest: two-sites"),
        ("zzz", "unknown topology 'zzz'\n  presets: aws-ten-regions, campus"),
        ("nowhere/mine.yaml", "no such topology file: nowhere/mine.yaml"),
    ],
)
def test_unknown_topology(name: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        Topology.load(name)
    assert str(caught.value).startswith(text)


REPLACEMENTS = {
    "unknown key": (
        "hosts: 2",
        "host: 2",
        "mine.yaml:2, datacenters.iowa.host: unknown key 'host'\n  nearest: hosts",
    ),
    "unknown key of a link": (
        "rate: 10",
        "rat: 10",
        "mine.yaml:5, wan.iowa-ohio.rat: unknown key 'rat'\n  nearest: rate",
    ),
    "an unknown key of a datacenter": (
        "iowa: {hosts: 2}",
        "iowa: {hosts: 2, colour: blue}",
        "mine.yaml:2, datacenters.iowa.colour: unknown key 'colour'\n"
        "  known keys: hosts, nic, tcp, cpu, fabric, location",
    ),
    "an unknown fabric": (
        "iowa: {hosts: 2}",
        "iowa: {hosts: 2, fabric: leaf-spine}",
        "mine.yaml:2, datacenters.iowa.fabric: 'leaf-spine' is not a valid fabric\n"
        "  use switch, or {leaves: 4, spines: 2",
    ),
    "more leaves than hosts": (
        "iowa: {hosts: 2}",
        "iowa: {hosts: 2, fabric: {leaves: 3, spines: 2}}",
        "mine.yaml:2, datacenters.iowa.fabric: more leaves (3) than hosts (2)\n"
        "  every leaf needs at least one host",
    ),
    "less than no oversubscription": (
        "iowa: {hosts: 2}",
        "iowa: {hosts: 2, fabric: {leaves: 2, spines: 2, oversubscription: 0.5}}",
        "mine.yaml:2, datacenters.iowa.fabric.oversubscription: 0.5 is less than 1",
    ),
    "marks without a discipline": (
        "delay: 8 ms",
        "delay: 8 ms, ecn: true",
        "mine.yaml:5, wan.iowa-ohio.ecn: iowa->ohio has ecn, but a drop-tail queue cannot mark "
        "packets\n"
        "  add discipline: red or fq_codel",
    ),
    "an unknown discipline": (
        "delay: 8 ms",
        "delay: 8 ms, discipline: pie",
        "mine.yaml:5, wan.iowa-ohio.discipline: 'pie' is not one of 'drop-tail', 'red' or "
        "'fq_codel'",
    ),
    "an unknown routing": (
        "wan:",
        "routing: cost\nwan:",
        "mine.yaml:4, routing: 'cost' is not one of 'delay', 'hops' or 'weight'",
    ),
    "missing unit": (
        "rate: 10 Gbit/s",
        "rate: 10",
        "mine.yaml:5, wan.iowa-ohio.rate: the rate 10 has no unit\n"
        "  write a number and a unit, such as 10 Gbit/s; the units are bit/s, kbit/s, Mbit/s, "
        "Gbit/s, Tbit/s",
    ),
    "wrong unit": (
        "delay: 8 ms",
        "delay: 8 km",
        "mine.yaml:5, wan.iowa-ohio.delay: '8 km' is not a time: unknown unit 'km'\n"
        "  write a number and a unit, such as 8.2 ms; the units are ns, us, ms, s",
    ),
    "zero hosts": ("hosts: 2", "hosts: 0", "mine.yaml:2, datacenters.iowa.hosts: 0 is less than 1"),
    "half a host": (
        "hosts: 2",
        "hosts: 1.5",
        "mine.yaml:2, datacenters.iowa.hosts: 1.5 is not a whole number",
    ),
    "a rate of 0": (
        "10 Gbit/s",
        "0 Gbit/s",
        "mine.yaml:5, wan.iowa-ohio.rate: the rate must be greater than 0\n"
        "  to remove a link, delete its entry",
    ),
    "unknown datacenter": (
        "[iowa, ohio]",
        "[iowa, ohoi]",
        "mine.yaml:5, wan.iowa-ohoi.between: unknown datacenter 'ohoi'\n  nearest: ohio",
    ),
    "a link to itself": (
        "[iowa, ohio]",
        "[iowa, iowa]",
        "mine.yaml:5, wan.iowa-iowa.between: duplicate datacenter: iowa, iowa",
    ),
    "no path": (
        f"  - {{{LINK}}}",
        "  []",
        "mine.yaml:3, datacenters.ohio: no path between iowa and ohio\n"
        "  add a link of ohio to `wan`, or remove the datacenter",
    ),
    "no delay": (
        ", delay: 8 ms",
        "",
        "mine.yaml:5, wan.iowa-ohio.delay: iowa->ohio has no delay\n"
        "  add a delay, or the location of iowa and ohio",
    ),
    "no rate": (
        "rate: 10 Gbit/s, ",
        "",
        "mine.yaml:5, wan.iowa-ohio.rate: iowa->ohio has no rate\n  add a rate, such as 10 Gbit/s",
    ),
    "no rate one way": (
        "rate: 10 Gbit/s",
        "rate: {iowa->ohio: 10 Gbit/s}",
        "mine.yaml:5, wan.iowa-ohio.rate: ohio->iowa has no rate\n  add a rate, such as 10 Gbit/s",
    ),
    "unknown direction": (
        "rate: 10 Gbit/s",
        "rate: {iowa->texas: 10 Gbit/s}",
        "mine.yaml:5, wan.iowa-ohio.rate.iowa->texas: 'iowa->texas' is not a direction of this "
        "link\n"
        "  directions: iowa->ohio and ohio->iowa",
    ),
    "duplicate datacenter": (
        "  ohio: {hosts: 2}",
        "  ohio: {hosts: 2}\n  iowa: {hosts: 3}",
        "mine.yaml:4, iowa: duplicate key 'iowa', first on line 2\n  remove one of the two",
    ),
    "duplicate link": (
        f"  - {{{LINK}}}",
        f"  - {{{LINK}}}\n  - {{{LINK.replace('iowa, ohio', 'ohio, iowa')}}}",
        "mine.yaml:6, wan.ohio-iowa: a second link between ohio and iowa\n"
        "  use at most one link between two datacenters",
    ),
    "no shape": (
        "between: [iowa, ohio]",
        "queue: 1 bdp",
        "mine.yaml:5, wan.0: a link needs exactly one of between, mesh, ring and star",
    ),
    "a ring of two": (
        "between: [iowa, ohio]",
        "ring: all",
        "mine.yaml:5, wan.ring.ring: a ring needs at least 3 datacenters",
    ),
    "a bad name": (
        "  ohio: {",
        "  Ohio_1: {",
        "mine.yaml:3, datacenters.Ohio_1: 'Ohio_1' is not a valid name\n"
        "  use at most 63 lower-case letters",
    ),
    "not a mapping": (
        "{hosts: 2}",
        "2",
        "mine.yaml:2, datacenters.iowa: 2 is not a mapping of keys to values",
    ),
    "a bad queue": (
        "delay: 8 ms",
        "delay: 8 ms, queue: 1 bpd",
        "mine.yaml:5, wan.iowa-ohio.queue: '1 bpd' is not a valid queue length\n  use 1 bdp, 64 "
        "packets, a size such as 4 MiB or a time such as 20 ms",
    ),
    "too much jitter": (
        "delay: 8 ms",
        "delay: 8 ms, jitter: 9 ms",
        "mine.yaml:5, wan.iowa-ohio.jitter: the jitter of iowa->ohio exceeds its delay",
    ),
    "unknown distribution": (
        "delay: 8 ms",
        "delay: 8 ms, distribution: cauchy",
        "mine.yaml:5, wan.iowa-ohio.distribution: 'cauchy' is neither uniform, normal, pareto, "
        "paretonormal nor",
    ),
    "a key of bursty loss": (
        "delay: 8 ms",
        "delay: 8 ms, loss: {p: 1 %, q: 1 %, r: 1 %}",
        "mine.yaml:5, wan.iowa-ohio.loss.q: unknown key 'q'\n"
        "  known keys: p, r, loss_in_bad, loss_in_good",
    ),
    "not YAML": ("wan:", "wan: [", "mine.yaml:"),
    "a key that is not text": (
        "  iowa: {hosts: 2}",
        "  1: {hosts: 2}",
        "mine.yaml:2: the key '1' is not text\n  put the key in quotes",
    ),
}


@pytest.mark.parametrize("case", REPLACEMENTS)
def test_wrong_topology(case: str, tmp_path: Path) -> None:
    old, new, expected = REPLACEMENTS[case]
    assert old in GOOD
    assert message(tmp_path, GOOD.replace(old, new, 1)).startswith(expected)


def test_unknown_keys_at_the_top(tmp_path: Path) -> None:
    assert (
        message(tmp_path, GOOD + "tpc: {}\n")
        == "mine.yaml:6, tpc: unknown key 'tpc'\n  nearest: tcp"
    )
    assert "mine.yaml:6, tcp.congestion_control: 'vegas' is not one of 'cubic', 'bbr'" in message(
        tmp_path, GOOD + "tcp: {congestion_control: vegas}\n"
    )
    assert "tcp.buffer: the TCP buffer must be from 4 KiB to 1 GiB" in message(
        tmp_path, GOOD + "tcp: {buffer: 2 GiB}\n"
    )


def test_all_errors_of_a_file_are_reported(tmp_path: Path) -> None:
    text = (
        GOOD.replace("hosts: 2", "hosts: 0", 1).replace("10 Gbit/s", "10").replace("delay", "dealy")
    )
    assert message(tmp_path, text) == (
        "3 errors\n"
        "  mine.yaml:2, datacenters.iowa.hosts: 0 is less than 1\n"
        "  mine.yaml:5, wan.iowa-ohio.rate: the rate 10 has no unit\n"
        "    write a number and a unit, such as 10 Gbit/s; the units are bit/s, kbit/s, Mbit/s, "
        "Gbit/s, Tbit/s\n"
        "  mine.yaml:5, wan.iowa-ohio.dealy: unknown key 'dealy'\n"
        "    nearest: delay"
    )


def test_all_wrong_links_are_reported(tmp_path: Path) -> None:
    text = (
        GOOD
        + "  - {between: [iowa, texas], rate: 1 Gbit/s, delay: 1 ms}\n  - {mesh: [utah, ohio]}\n"
    )
    found = message(tmp_path, text)
    assert found.startswith("2 errors\n")
    assert (
        "mine.yaml:6, wan.iowa-texas.between: unknown datacenter 'texas'\n"
        "    datacenters: iowa, ohio" in found
    )
    assert "mine.yaml:7, wan.mesh.mesh: unknown datacenter 'utah'" in found


def test_values_per_direction_need_one_link(tmp_path: Path) -> None:
    text = GOOD.replace(
        "between: [iowa, ohio], rate: 10 Gbit/s", "mesh: all, rate: {iowa->ohio: 1 Gbit/s}"
    )
    assert "wan.mesh.rate: values per direction require an entry with `between`" in message(
        tmp_path, text
    )


def test_ambiguous_link_keys(tmp_path: Path) -> None:
    text = """
datacenters: {a: {}, a-b: {}, b-c: {}, c: {}}
wan:
  - {mesh: all, rate: 1 Gbit/s, delay: 1 ms}
"""
    assert "mine.yaml:3, wan.mesh: duplicate link key 'a-b-c'" in message(tmp_path, text)


def test_unreadable_files(tmp_path: Path) -> None:
    assert message(tmp_path, "") == "mine.yaml:1: expected a mapping of keys to values"
    assert message(tmp_path, "a: &a [*a]") == "mine.yaml:1: an alias refers to its own parent"
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(InputError, match=r"latin\.yaml: not a UTF-8 text file"):
        Topology.load(path)


def test_extends_an_unknown_preset(tmp_path: Path) -> None:
    found = message(tmp_path, "extends: two-site\n")
    assert (
        found == "mine.yaml:1, extends: unknown topology 'two-site'\n"
        "  nearest: two-sites; for a file, write its path"
    )


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            "wan.iowa-ohio.delay=20",
            "--set wan.iowa-ohio.delay: the time 20 has no unit\n  write a number and a unit",
        ),
        (
            "wan.iowa-oiho.delay=20 ms",
            "--set wan.iowa-oiho.delay: unknown WAN link 'iowa-oiho'\n  nearest: iowa-ohio",
        ),
        (
            "wan.iowa-ohio.delya=20 ms",
            "--set wan.iowa-ohio.delya: unknown key 'delya'\n  nearest: delay",
        ),
        (
            "tcp.congestion=bbr",
            "--set tcp.congestion: unknown key 'congestion'\n  nearest: congestion_control",
        ),
        (
            "datacenters.iowa.nic={rat: 1}",
            "--set datacenters.iowa.nic: unknown key 'rat'\n  nearest: rate",
        ),
        (
            "mtu.size=1500",
            "--set mtu.size: cannot set 'size': its parent is the value 1500, not a mapping",
        ),
        ("mtu", "--set: 'mtu' is not KEY=VALUE"),
        ("wan.iowa-ohio.rate=[1", "--set wan.iowa-ohio.rate: not valid YAML:"),
    ],
)
def test_wrong_set(setting: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        Topology.load("two-sites", parse_overrides([setting], ["topology"])["topology"])
    assert str(caught.value).startswith(text)


def test_set_without_a_target() -> None:
    with pytest.raises(
        InputError, match=r"--set mtu: the key 'mtu' does not start with topology\. or workload\."
    ):
        parse_overrides(["mtu=1400"], ["topology", "workload"])


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            "ops=[all_reduce, allgather]",
            "--set ops: 'allgather' is not one of 'all_reduce', 'all_gather'",
        ),
        ("sizes=[4096]", "--set sizes: the size 4096 has no unit"),
        ("sizes={form: 4 KiB}", "--set sizes: unknown key 'form'\n  nearest: from"),
        ("iteration=3", "--set iteration: unknown key 'iteration'\n  nearest: iterations"),
        ("iterations=0", "--set iterations: 0 is less than 1"),
        (
            "workload=collective",
            "--set workload: unknown workload 'collective'\n  nearest: collectives",
        ),
        ("check=1", "--set check: 1 is not true or false"),
    ],
)
def test_wrong_workload(setting: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        load_workload("collectives", [Override(*_split(setting))])
    assert str(caught.value).startswith(text)


def _split(setting: str) -> tuple[str, tuple[str, ...], object]:
    key, _, value = setting.partition("=")
    return key, (key,), yaml_reader.parse(value, f"--set {key}")


def test_unknown_workload() -> None:
    with pytest.raises(InputError, match=r"unknown workload 'colectives'\n  nearest: collectives"):
        load_workload("colectives")


def test_more_hosts_than_memory() -> None:
    with pytest.raises(InputError) as caught:
        resolve(Topology.load("single-cluster"), Collectives(), machine_memory_bytes=5 * 2**29)
    assert str(caught.value) == (
        "8 hosts need 2.95 GiB of memory, but this machine has 2.5 GiB\n"
        "  4 hosts would fit; use --isolation process or smaller tensors"
        "; override this estimate with --guest-memory"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.tar", "cannot read the image .*missing.tar: No such file or directory"),
        ("text.tar", "is not a tar file"),
        (".", "cannot read the image .*: Is a directory"),
    ],
)
def test_unreadable_image(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("this is text")
    with pytest.raises(InputError, match=text) as caught:
        resolve(
            Topology.load("two-sites"),
            Collectives(),
            RunOptions(image=tmp_path / name),
            machine_memory_bytes=2**40,
        )
    assert str(caught.value).startswith("--image: ")


def test_an_image_needs_containers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--image: images require containers"):
        resolve(
            Topology.load("two-sites"),
            Collectives(),
            RunOptions(image=tmp_path, isolation="process"),
        )


def test_here_has_no_virtual_clock() -> None:
    with pytest.raises(InputError, match="--clock: the host kernel has no virtual clock"):
        resolve(
            Topology.load("two-sites"), Collectives(), RunOptions(where="here", clock="virtual")
        )
