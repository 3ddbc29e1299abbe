#!/usr/bin/env python3
"""An external decider for Laneguard's policies with `law: External`. The rules are in ../PROTOCOL.md, the law is in law.py."""

import asyncio
import logging
import os
import signal
import ssl
import time
from collections import Counter

import nats

import law
import laneguard_pb2 as v1
from bus import CLUSTER, UNREADABLE, Bus, Lost, decode, number
from policy import Policy

REPEAT_S = 10  # an unchanged decision is published this often
LONGEST_LAG_MS = 60_000  # a window that ended longer ago than this when it was read says nothing about now
log = logging.getLogger("decider")


class Reign:
    """Deciding for one policy under one term."""

    def __init__(self, policy, term, sequence, last):
        self.policy, self.term, self.sequence = policy, term, sequence
        self.last = last  # (kind, subject's end) -> stream sequence of the last message, which ours must follow
        self.state = {"limits": {}, "good": 0, "changedMs": 0, "badSinceMs": 0}
        self.said, self.said_at, self.repeats = None, 0.0, 0
        self.commands, self.sent_at = {}, {}  # by class: the command in force, and when it was last published
        self.over = False  # a new term is needed


def unusable(policy, newest):
    """Why the newest samples say nothing about now; None: they do."""
    for workload in policy.targets:
        if workload not in newest:
            return f"There is no sample of {workload} yet."
        sample, came, _ = newest[workload]
        end_ms = sample.window_end.ToMilliseconds()
        if time.monotonic() - came > policy.valid_for_s:
            return f"There is no news of {workload}."
        if sample.quality not in (sample.GOOD, sample.COARSE, sample.IDLE):
            return f"The sample of {workload} has quality {sample.Quality.Name(sample.quality)}: {sample.reason}"
        # both by one clock, which need not be ours
        if end_ms <= 0 or sample.observed_at.ToMilliseconds() - end_ms > LONGEST_LAG_MS:
            return f"The sample of {workload} is too old."
    return None


class Decider:
    def __init__(self, nc):
        self.bus = Bus(nc)
        self.newest = {}  # policy -> workload -> (newest sample, when it came, trace headers)
        self.waiting = {}  # policy -> workload -> samples since the last round
        self.reigns, self.others = {}, {}  # by policy: our term, or what was last seen of somebody else's
        self.woken, self.stopping = asyncio.Event(), False

    def stop(self):
        self.stopping = True
        self.woken.set()

    async def on_sample(self, msg):
        """Keeps the newest only, so that nothing piles up behind a slow server."""
        try:
            sample = decode(v1.Sample, msg.data, msg.headers)
        except UNREADABLE as error:
            return log.warning("%s refused: %s", msg.subject, error)
        if msg.subject != f"laneguard.v1.sample.{CLUSTER}.{sample.policy}.{sample.workload}":
            return log.warning("%s refused: the message is about something else", msg.subject)
        newest = self.newest.setdefault(sample.policy, {})
        if sample.workload not in newest or sample.sequence > newest[sample.workload][0].sequence:
            trace = {k: v for k, v in (msg.headers or {}).items() if k in ("traceparent", "tracestate")}
            newest[sample.workload] = sample, time.monotonic(), trace
            self.waiting.setdefault(sample.policy, Counter())[sample.workload] += 1
            self.woken.set()

    async def on_outcome(self, msg):
        """Only a refusal of our own command counts: we are the last to have written, but the actuator knows a greater term."""
        try:
            outcome = decode(v1.Outcome, msg.data, msg.headers)
        except UNREADABLE as error:
            return log.warning("%s refused: %s", msg.subject, error)
        reign = self.reigns.get(outcome.policy)
        if outcome.refused and reign and reign.term == outcome.term:
            log.warning("%s: command refused, %s, highest term %d", outcome.policy, outcome.refused_reason, outcome.highest_term)
            reign.over |= outcome.refused_reason in ("older_term", "older_sequence")

    async def run(self):
        while not self.stopping:
            await self.woken.wait()
            self.woken.clear()
            for name in list(self.waiting):
                try:
                    await self.round(name)
                except Lost as lost:
                    log.warning("%s: %s, standing by", name, lost)
                    self.others[name] = None, 0.0
                    self.reigns.pop(name, None)
                except (nats.errors.Error, asyncio.TimeoutError) as error:
                    log.warning("%s: NATS: %r", name, error)
                    if name in self.reigns:
                        self.reigns[name].over = True  # what was stored is not known

    async def round(self, name):
        """Decides once for each set of samples: when every workload has reported, or one has twice."""
        try:
            entry = await self.bus.read("laneguard-policies", f"{CLUSTER}.{name}")
            policy = Policy(entry) if entry else None
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s: the policy cannot be read: %r", name, error)
            policy = None
        counts = self.waiting[name]
        if policy and not policy.targets.keys() <= counts.keys() and max(counts.values()) < 2:
            return
        del self.waiting[name]
        is_ours = policy is not None and policy.is_ours
        override = await self.bus.read("laneguard-overrides", f"{CLUSTER}.{name}") if is_ours else None
        override = override or {}
        if not is_ours or override.get("action") == "release":
            self.reigns.pop(name, None)  # the pods are given back by the actuator: later we begin with what is found
        elif not await self.stands_by(name, policy):
            await self.decide(name, await self.reign(name, policy), self.newest[name], override)

    async def stands_by(self, name, policy):
        """Whoever lost a policy waits until the other has been silent for longer than anybody who lives would be."""
        if name not in self.others:
            return False
        ends = [("decision", f"{CLUSTER}.{name}")] + [("command", f"{CLUSTER}.{name}.{c}") for c in policy.classes]
        seen = [(await self.bus.last(*end))[1] for end in ends]
        known, since = self.others[name]
        if seen != known:
            self.others[name] = seen, time.monotonic()
        elif time.monotonic() - since > max(policy.valid_for_s, 2 * REPEAT_S):
            del self.others[name]
            return False
        return True

    async def reign(self, name, policy):
        """Ours, or a new one: its term is above every one seen, its limits are ours or those that the pods have."""
        old = self.reigns.get(name)
        if old and not old.over and (old.policy.uid, old.policy.generation) == (policy.uid, policy.generation):
            reign = old
        else:
            decision, at = await self.bus.last("decision", f"{CLUSTER}.{name}")
            last, term, sequence = {("decision", f"{CLUSTER}.{name}"): at}, *number(decision)[:2]
            for name_of_class in policy.classes:
                end = f"{CLUSTER}.{name}.{name_of_class}"
                command, last["command", end] = await self.bus.last("command", end)
                outcome, _ = await self.bus.last("outcome", end)
                term = max(term, command.term, outcome.term, outcome.highest_term)
                sequence = max(sequence, command.sequence)
            reign = Reign(policy, max(int(time.time() * 1000), term + 1), sequence, last)
            if old and (old.policy.uid, old.policy.mode) == (policy.uid, policy.mode):
                reign.state["limits"] = {c: bps for c, bps in old.state["limits"].items() if c in policy.classes}
            self.reigns[name] = reign
            log.info("%s: deciding with term %d", name, reign.term)
        limits = reign.state["limits"]
        if policy.classes.keys() - limits.keys():
            placement = await self.bus.read("laneguard-state", f"placement.{CLUSTER}.{name}") or {}
            for placed in placement.get("classes", []):
                if placed["class"] in policy.classes:
                    limits.setdefault(placed["class"], placed.get("foundBps", policy.classes[placed["class"]]["maxBps"]))
        for name_of_class, bps in limits.items():
            bounds = policy.classes[name_of_class]
            limits[name_of_class] = min(max(bps, bounds["minBps"]), bounds["maxBps"])
        return reign

    async def decide(self, name, reign, newest, override):
        policy, now_ms, before = reign.policy, int(time.time() * 1000), reign.state
        heard = [newest[workload] for workload in policy.targets if workload in newest]
        samples = [one[0] for one in heard]
        trace = max(newest.values(), key=lambda one: one[1])[2]
        frozen = override.get("action") == "freeze" and now_ms < (override.get("until_ms") or now_ms + 1)
        blind = unusable(policy, newest)
        unplaced = policy.classes.keys() - before["limits"].keys()
        state, action = before, "HOLD"
        if blind:
            state, reason = {**before, "good": 0}, f"{blind} Limits are not renewed."
        elif unplaced:
            reason = f"It is not known yet which pods and limits {', '.join(sorted(unplaced))} has."
        elif frozen:
            reason = f"Frozen by {override.get('by') or 'an operator'}."
        else:
            state, action, reason = law.decide(now_ms, before, policy.classes, policy.targets, samples)

        said = action, bool(blind), bool(unplaced), frozen
        if said != reign.said or state["limits"] != before["limits"] or time.monotonic() - reign.said_at >= REPEAT_S:
            reign.sequence += 1
            decision = v1.Decision(
                cluster=CLUSTER, policy=name, law=law.NAME, term=reign.term, sequence=reign.sequence, action=action,
                reason=reason, repeats=reign.repeats, mode=policy.mode, policy_generation=policy.generation, samples=samples, cause="samples")
            decision.decided_at.FromMilliseconds(now_ms)
            for sample, (_, came, _) in zip(decision.samples, heard):
                for field in ("cluster", "policy", "smoothed"):  # the decision says it, or the law does not read it
                    sample.ClearField(field)
                sample.observed_at.FromMilliseconds(now_ms - int((time.monotonic() - came) * 1000))
            for c, bps in before["limits"].items():
                decision.limits.add(**{"class": c, "before_bps": bps, "after_bps": state["limits"][c]})
            decision.state.update(before)
            decision.parameters.update({"law": law.PARAMETERS, "targets": policy.targets, "classes": policy.classes})
            # this is the commit: it follows the last decision, or somebody else has written
            await self.bus.store(reign.last, "decision", f"{CLUSTER}.{name}", decision, f"{law.NAME}.{reign.term}.{reign.sequence}", trace)
            reign.said, reign.said_at, reign.repeats = said, time.monotonic(), 0
            log.info("%s: %s %s", name, action, reason)
        else:
            reign.repeats += 1
        reign.state = state
        if policy.mode == "Enforce" and not blind and not unplaced:
            for name_of_class in policy.classes:
                await self.command(name, reign, name_of_class, now_ms, trace)

    async def command(self, name, reign, name_of_class, now_ms, trace):
        """Publishes a new command, or renews the one in force when a third of its validity has passed."""
        bounds, bps = reign.policy.classes[name_of_class], reign.state["limits"][name_of_class]
        known, command = reign.commands.get(name_of_class), v1.Command()
        if known and known.limit_bps == bps:
            # a little early: samples come in steps, and the next one could be too late
            if time.monotonic() - reign.sent_at[name_of_class] < reign.policy.valid_for_s / 3 * 0.9:
                return
            command.CopyFrom(known)
            command.renewal += 1
        else:
            restore = bounds["open"] and bps >= bounds["maxBps"]
            command = v1.Command(
                cluster=CLUSTER, policy=name, limit_bps=bps, restore=restore, term=reign.term, sequence=reign.sequence,
                on_stale=reign.policy.on_stale, **{"class": name_of_class})
            command.valid_for.FromMilliseconds(int(reign.policy.valid_for_s * 1000))
        command.issued_at.FromMilliseconds(now_ms)
        id = f"{name_of_class}.{command.term}.{command.sequence}.{command.renewal}"
        await self.bus.store(reign.last, "command", f"{CLUSTER}.{name}.{name_of_class}", command, id, trace)
        reign.commands[name_of_class], reign.sent_at[name_of_class] = command, time.monotonic()

async def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = {}
    if os.environ.get("NATS_CREDS"):
        options["user_credentials"] = os.environ["NATS_CREDS"]
    if os.environ.get("NATS_CA"):
        options["tls"] = ssl.create_default_context(cafile=os.environ["NATS_CA"])
    url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    nc = await nats.connect(url, name="python-decider", max_reconnect_attempts=-1, **options)
    decider = Decider(nc)
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, decider.stop)
    await nc.subscribe(f"laneguard.v1.sample.{CLUSTER}.>", cb=decider.on_sample)
    await nc.subscribe(f"laneguard.v1.outcome.{CLUSTER}.>", cb=decider.on_outcome)
    log.info("ready")
    await decider.run()
    await nc.drain()  # nothing is restored: the commands run out, and the policy's onStale follows


if __name__ == "__main__":
    asyncio.run(main())
