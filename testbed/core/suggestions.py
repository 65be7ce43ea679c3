"""Suggest known names for a name that is not known: spelling, synonyms, ends of links swapped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Words of the field, in the form of `_letters`, with the names that the testbed has for them and
# what to watch out for.
_SYNONYMS: dict[str, dict[str, str]] = {}


def _mean(words: str, **names: str) -> None:
    """Add synonyms: every one of `words` may mean each of `names`, which have notes."""
    for word in words.split():
        _SYNONYMS.setdefault(word, {}).update(names)


_mean("latency lat onewaydelay propagationdelay propagation", delay="one way")
_mean("rtt ping roundtrip roundtriptime", delay="one way: half of the round-trip time")
_mean("bandwidth bw speed capacity throughput linkrate datarate bitrate gbps", rate="", nic="")
_mean("rate delay", nic="of hosts", wan="of links")
_mean("packetloss plr lossrate droprate lossprobability errorrate", loss="per packet")
_mean("ber biterrorrate", corrupt="per packet")
_mean("nodes machines servers computers workers instances vms", hosts="")
_mean("gpus accelerators devices", hosts="", gpu="", ranks_per_host="")
_mean("sites dcs regions clusters locations zones", datacenters="")
_mean("links edges connections network topology", wan="")
_mean("coordinates position latlon latlong geo gps coords", location="degrees north, degrees east")
_mean("buffer buffersize bufferlimit queuesize queuelength queuelimit limit", queue="", buffer="")
_mean("qdisc aqm queuediscipline", discipline="")
_mean("cc tcpcc congestion congestionalgorithm congestioncontrolalgorithm", congestion_control="")
_mean("mss packetsize maximumtransmissionunit", mtu="")
_mean("srlg riskgroup conduit cable duct", shares="name of a conduit")
_mean("cost metric", weight="with `routing: weight`")
_mean("ends endpoints from to source target pair", between="[one datacenter, the other]")
_mean("fullmesh full complete all", mesh="")
_mean("interface adapter ethernet", nic="")
_mean("topologytype architecture clos fattree leafspine leaves spines", fabric="")
_mean("start time when begin t", at="")
_mean("length lasts until", duration="")
_mean("period interval", every="")
_mean("count repetitions", times="", repeats="")
_mean("fail failure outage cut linkdown", down="true")
_mean("crosstraffic background backgroundtraffic flow", transfer="")
_mean("batchsize microbatchsize", batch="")
_mean("learningrate", lr="")
_mean("seqlen sequencelength contextlength context", sequence="")
_mean("nproc nprocperhost nprocpernode ranks processes worldsize gpusperhost", ranks_per_host="")
_mean("nproc nprocpernode ranksperhost", nproc_per_host="")
_mean("h innersteps localsteps syncinterval syncperiod", sync_every="inner steps")
_mean("tau delaysteps", overlap="inner steps")
_mean("modelsize params numparameters numparams model", parameters="")
_mean("iterations iters numsteps maxsteps", steps="")
_mean("strategy algorithm parallelism optimizer optimiser", method="")
_mean("stragglers slow", straggler="")
_mean("operations operation op collective collectives", ops="a list")
_mean("size messagesize message bytes", sizes="a list")
_mean("datatype precision", dtype="", exchange_dtype="")
_mean("iters iteration steps", iterations="")
_mean("ckpt checkpoint", transfer="")
_mean("dir folder outdir outputdir output", out="")
_mean("ram mem", memory="")
_mean("pcap tcpdump", capture="")
_mean("parallel workers threads", jobs="")


def _letters(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def nearest(name: object, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` names of `known` that a wrong name may mean, best first.

    Names that differ only in case and punctuation come alone, then names with another order of
    parts (``ohio-iowa``), then synonyms, then names of similar spelling.

    Args:
        name: The wrong name.
        known: All valid names.
        limit: Maximum number of names.
    """
    return list(_candidates(str(name), list(known), limit))


def _candidates(name: str, known: list[str], limit: int) -> Mapping[str, str]:
    """Return the names that `name` may mean, with notes."""
    letters = _letters(name)
    by_letters: dict[str, list[str]] = {}
    for candidate in known:
        by_letters.setdefault(_letters(candidate), []).append(candidate)

    for wanted in (letters, *_reordered(name)):
        if wanted and wanted in by_letters:
            return dict.fromkeys(by_letters[wanted][:limit], "")

    meant: dict[str, str] = {}
    for synonym, note in _SYNONYMS.get(letters, {}).items():
        for candidate in by_letters.get(_letters(synonym), []):
            meant[candidate] = note
    if meant:
        return meant

    return dict.fromkeys(_similar(name, known, limit), "")


def _reordered(name: str) -> list[str]:
    """Return the letters of a name with its first parts at the end: ohio-iowa as iowa-ohio."""
    parts = re.split(r"->|[^A-Za-z0-9]+", name)
    orders: list[str] = []
    for position in range(1, len(parts)):
        order = parts[position:] + parts[:position]
        orders.append(_letters("".join(order)))
    return orders


def _similar(name: str, known: list[str], limit: int) -> list[str]:
    """Return names of similar spelling in any case."""
    from rapidfuzz import fuzz, process  # noqa: PLC0415 (0.05 s, for mistakes alone)

    matches = process.extract(
        name,
        known,
        scorer=fuzz.ratio,
        processor=str.lower,
        limit=limit,
        score_cutoff=60,
    )
    return [match for match, _, _ in matches]


def nearest_text(name: object, known: Iterable[str]) -> str:
    """Return ``nearest: …`` if known names are similar to `name`, otherwise an empty text."""
    near = _candidates(str(name), list(known), limit=3)
    if not near:
        return ""
    texts = [f"{candidate} ({note})" if note else candidate for candidate, note in near.items()]
    return f"nearest: {', '.join(texts)}"


def suggest(name: object, known: Iterable[str], label: str = "known") -> str:
    """Return ``nearest: …`` if known names are similar to `name`, otherwise all known names.

    Args:
        name: The user's text.
        known: All valid names.
        label: Text in front of the list of all known names.
    """
    names = list(known)
    return nearest_text(name, names) or f"{label}: {', '.join(names)}"
