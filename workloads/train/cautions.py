"""What the settings of `train` and a network together do not achieve, known before the run."""

from __future__ import annotations

from testbed.analysis.lower_bounds import bound_us, longest_rtt_ns
from testbed.plan.model import Plan
from testbed.runfolder.problems import Problem, ProblemCode

BYTES = {"float32": 4, "float16": 2}
BACKWARD = 2 / 3  # part of a step in which early exchanges are already under way
NS_PER_MS = 1e6


def cautions(plan: Plan) -> list[Problem]:
    """Return a problem if streaming-diloco waits for exchanges that its overlap is to hide.

    An all-reduce by gloo needs at least a round trip between the ranks that are farthest apart, and
    at least the bound of its bytes.

    Args:
        plan: a plan of the workload `train`.
    """
    settings = plan.workers.settings
    if settings["method"] != "streaming-diloco" or settings["overlap"] == 0:
        return []

    rtt_ms = longest_rtt_ns(plan.network, plan.workers.ranks) / NS_PER_MS
    sent_bytes = _fragment_bytes(plan)
    bound_ms = bound_us(plan.network, plan.workers.ranks, "all_reduce", sent_bytes) / 1000
    needed_ms = max(rtt_ms, bound_ms)
    step_ms = 1000 * settings["step_seconds"]
    head_start = BACKWARD if settings["early_exchange"] else 0.0
    hidden_ms = (settings["overlap"] + head_start) * step_ms
    if step_ms <= 0 or needed_ms <= hidden_ms:
        return []

    steps = int(needed_ms / step_ms - head_start) + 1
    reason = "the round trip" if rtt_ms >= bound_ms else f"sending {sent_bytes / 1e6:.3g} MB"
    message = (
        f"streaming-diloco waits for its exchanges: an exchange takes at least {needed_ms:.4g} ms "
        f"({reason}), but training continues for only {hidden_ms:.4g} ms meanwhile "
        f"(overlap: {settings['overlap']}, {step_ms:.4g} ms a step)\n"
        f"  --set workload.overlap={steps} hides at least this time"
    )
    if steps >= settings["sync_every"]:
        message += f", and needs --set workload.sync_every={steps + 1} or more"
    return [Problem(code=ProblemCode.OVERLAP_SHORT, message=message)]


def _fragment_bytes(plan: Plan) -> int:
    """Return the mean size of a fragment's outer gradients in bytes."""
    settings = plan.workers.settings
    parameters = int(settings["parameters"]) // int(settings["fragments"])
    return parameters * BYTES[settings["exchange_dtype"]]
