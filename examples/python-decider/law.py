"""The control law: pure, no I/O, no clock. Replace this file to try a law of your own.

Proportional: while a target is violated, cut every class in proportion to the overshoot, from what its pods really send where that is
known; after some good samples in a row, raise it gently. A limit is bits per second and per pod.
"""

import math

NAME = "PythonProportional"
PARAMETERS = {
    "gain": 0.25,  # share cut for an overshoot of 100 %
    "leastCut": 0.1,  # of one cut
    "mostCut": 0.5,  # of one cut
    "raise": 0.1,  # share added by one raise
    "goodSamples": 5,  # in a row before a raise
}
VALUES = {
    "P95": ("p95_ms", "p95_low_ms"),
    "P99": ("p99_ms", "p99_low_ms"),
    "Jitter": ("jitter_ms", "jitter_low_ms"),
    "Mean": ("mean_ms", "mean_ms"),
}


def overshoot(sample, targets):
    """The worst (value / target, in words) of a sample; None if it cannot tell that all targets hold, nor that one does not."""
    if sample.quality == sample.IDLE:
        return 0.0, f"{sample.workload} idle"
    coarse, unknown, worst = sample.quality == sample.COARSE, False, (0.0, "")
    for metric, target_ms in targets.items():
        value, proven = VALUES[metric]
        name = proven if coarse else value  # of a coarse value only what its bucket proves
        ms = getattr(sample.raw, name) if sample.raw.HasField(name) else math.nan
        if not ms >= 0:
            unknown = True
            continue
        unknown |= coarse and proven != value and ms <= target_ms
        worst = max(worst, (ms / target_ms, f"{metric} of {sample.workload} {ms:.4g} ms, target {target_ms:.4g} ms"))
    return None if unknown and worst[0] <= 1 else worst


def sent(name, samples, since_ms):
    """What the busiest pod of a class sent, by usage that was measured wholly since then."""
    for sample in samples:
        for usage in sample.usage:
            if getattr(usage, "class") == name and usage.HasField("top_pod_bps") and usage.HasField("window_start"):
                if usage.window_start.ToMilliseconds() >= since_ms:
                    yield usage.top_pod_bps


def decide(now_ms, state, classes, targets, samples):
    """Gives (state, action, reason). `state` is {"limits": {class: bps}, "good", "changedMs", "badSinceMs"} and is not changed."""
    new = {**state, "limits": dict(state["limits"])}
    found = [overshoot(sample, targets[sample.workload]) for sample in samples]
    worst, words = max((one for one in found if one), default=(0.0, ""))
    bad = worst > 1
    if not bad:
        new["badSinceMs"] = 0
        if None in found:
            new["good"] = 0
            return new, "HOLD", "It cannot be told whether the targets hold."
    elif not state["badSinceMs"]:
        new["badSinceMs"] = max(sample.window_end.ToMilliseconds() for sample in samples)

    # a sample whose window began before the last change says little about it; half a window is for its way to us
    window_ms = max(s.window_end.ToMilliseconds() - s.window_start.ToMilliseconds() for s in samples)
    if 0 <= now_ms - state["changedMs"] < min(1.5 * window_ms, 60_000):
        return new, "HOLD", f"{words}; waiting for samples from after the last change."

    if bad:
        new["good"] = 0
        share = min(max(PARAMETERS["gain"] * (worst - 1), PARAMETERS["leastCut"]), PARAMETERS["mostCut"])
        for name, limit in state["limits"].items():
            base = min(limit, *sent(name, samples, new["badSinceMs"]), math.inf)
            new["limits"][name] = max(classes[name]["minBps"], base * (1 - share))
        action, why = "THROTTLE", f"{words}: cut by {share:.0%}"
    else:
        new["good"] = state["good"] + 1
        if new["good"] < PARAMETERS["goodSamples"]:
            return new, "HOLD", f"{words}; good {new['good']} times in a row."
        new["good"] = 0
        for name, limit in state["limits"].items():
            new["limits"][name] = min(classes[name]["maxBps"], limit * (1 + PARAMETERS["raise"]))
        action, why = "INCREASE", f"{words}: raised by {PARAMETERS['raise']:.0%}"
    if new["limits"] == state["limits"]:
        return new, "HOLD", f"{words}; every class is at its bound."
    new["changedMs"] = now_ms
    limits = ", ".join(f"{name} {bps / 1e6:.4g} Mbit/s" for name, bps in new["limits"].items())
    return new, action, f"{why}, to {limits}."
