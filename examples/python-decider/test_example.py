"""`python3 -m unittest` in this folder."""

import os
import time
import unittest

from google.protobuf import descriptor_pb2

import law
import laneguard_pb2 as v1
from decider import unusable
from policy import Policy, bps, seconds

REPOSITORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CLASSES = {"bulk": {"minBps": 10e6, "maxBps": 200e6, "open": False}}
TARGETS = {"factory_robot": {"P95": 10, "Jitter": 5}}
NOW_MS = 1_800_000_000_000
QUALITY = v1.Sample.Quality


def sample(p95_ms=8, jitter_ms=2, quality="GOOD", lag_ms=0, sent_bps=None, **raw):
    one = v1.Sample(workload="factory_robot", sequence=1, quality=quality)
    one.raw.MergeFrom(v1.Signals(p95_ms=p95_ms, jitter_ms=jitter_ms, **raw))
    for field, ms in (("window_start", 2000 + lag_ms), ("window_end", lag_ms), ("observed_at", 0)):
        getattr(one, field).FromMilliseconds(NOW_MS - ms)
    if sent_bps is not None:
        usage = one.usage.add(**{"class": "bulk", "top_pod_bps": sent_bps})
        usage.window_start.FromMilliseconds(NOW_MS)
    return one


def state(bps, **more):
    return {"limits": {"bulk": bps}, "good": 0, "changedMs": 0, "badSinceMs": 0, **more}


def decide(before, one, now_ms=NOW_MS):
    after, action, reason = law.decide(now_ms, before, CLASSES, TARGETS, [one])
    return after["limits"]["bulk"], action, after, reason


class Law(unittest.TestCase):
    def test_a_cut_is_in_proportion_to_the_overshoot_and_bounded(self):
        for p95_ms, left in ((10.5, 0.9), (18, 0.8), (500, 0.5)):
            limit, action, _, reason = decide(state(100e6), sample(p95_ms=p95_ms))
            self.assertAlmostEqual(limit, 100e6 * left)
            self.assertEqual(action, "THROTTLE")
            self.assertIn("target 10 ms", reason)

    def test_it_cuts_from_what_is_sent_only_if_that_was_measured_in_the_violation(self):
        known = state(100e6, badSinceMs=NOW_MS - 5000)
        self.assertAlmostEqual(decide(known, sample(500, sent_bps=60e6))[0], 30e6)
        late = state(100e6, badSinceMs=NOW_MS + 1)
        self.assertAlmostEqual(decide(late, sample(500, sent_bps=60e6))[0], 50e6)

    def test_it_never_leaves_the_bounds(self):
        self.assertEqual(decide(state(11e6), sample(500))[:2], (10e6, "THROTTLE"))
        self.assertEqual(decide(state(10e6), sample(500))[:2], (10e6, "HOLD"))
        self.assertEqual(decide(state(195e6, good=4), sample())[:2], (200e6, "INCREASE"))

    def test_it_raises_after_good_samples_in_a_row(self):
        now = state(100e6)
        for _ in range(4):
            limit, action, now, _ = decide(now, sample())
            self.assertEqual((limit, action), (100e6, "HOLD"))
        self.assertAlmostEqual(decide(now, sample())[0], 110e6)

    def test_what_cannot_be_told_neither_cuts_nor_raises(self):
        coarse = sample(12, 2, "COARSE", p95_low_ms=5, jitter_low_ms=0)
        self.assertEqual(decide(state(100e6, good=4), coarse)[:2], (100e6, "HOLD"))
        missing = sample()
        missing.raw.ClearField("p95_ms")
        self.assertEqual(decide(state(100e6, good=4), missing)[:2], (100e6, "HOLD"))
        self.assertEqual(decide(state(100e6, good=4), sample(float("nan")))[:2], (100e6, "HOLD"))
        proven = sample(30, 2, "COARSE", p95_low_ms=25, jitter_low_ms=0)
        self.assertEqual(decide(state(100e6), proven)[1], "THROTTLE")

    def test_it_waits_for_samples_from_after_its_last_change(self):
        changed = state(100e6, changedMs=NOW_MS - 1000)
        self.assertEqual(decide(changed, sample(500))[:2], (100e6, "HOLD"))
        self.assertEqual(decide(changed, sample(500), NOW_MS + 2000)[1], "THROTTLE")


class Border(unittest.TestCase):
    def test_quantities_and_durations_read_as_in_policies(self):
        for text, value in (("10M", 10e6), ("2500k", 2.5e6), ("1.5G", 1.5e9), ("10Mi", 10 * 2**20), (42, 42)):
            self.assertEqual(bps(text), value)
        for text, value in (("10ms", 0.01), ("1m30s", 90), ("1h", 3600), ("2500us", 0.0025)):
            self.assertAlmostEqual(seconds(text), value)

    def test_a_policy_has_the_documented_defaults(self):
        critical = [{"workload": "arm.v2", "targets": [{"metric": "P95", "below": "10ms"}]}]
        spec = {"critical": critical, "bestEffort": [{"class": "bulk", "selector": {}}], "control": {"law": "External"}}
        policy = Policy({"namespace": "cell", "spec": spec})
        self.assertEqual((policy.mode, policy.is_ours, policy.on_stale, policy.valid_for_s), ("Observe", True, "HOLD", 15))
        self.assertEqual(policy.targets, {"cell_arm_v2": {"P95": 10}})
        self.assertEqual(policy.classes, {"bulk": {"minBps": 10e6, "maxBps": 1e9, "open": True}})
        self.assertFalse(Policy({"spec": {**spec, "mode": "Off"}}).is_ours)
        self.assertFalse(Policy({"spec": {**spec, "control": {}}}).is_ours)

    def test_no_data_is_not_good_data(self):
        policy = type("P", (), {"targets": TARGETS, "valid_for_s": 15})
        usable = sample()
        self.assertIsNone(unusable(policy, {"factory_robot": (usable, time.monotonic(), {})}))
        self.assertIn("no sample", unusable(policy, {}))
        self.assertIn("no news", unusable(policy, {"factory_robot": (usable, time.monotonic() - 16, {})}))
        for quality in ("STALE", "NO_DATA", "FAILED", "QUALITY_UNSPECIFIED"):
            one = sample(quality=quality)
            self.assertIn(quality, unusable(policy, {"factory_robot": (one, time.monotonic(), {})}))
        old = sample(lag_ms=61_000)
        self.assertIn("too old", unusable(policy, {"factory_robot": (old, time.monotonic(), {})}))

    def test_the_generated_types_are_those_of_the_schema(self):
        with open(os.path.join(REPOSITORY, "proto/src/gen/laneguard.v1.bin"), "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read()).file
        (schema,) = [file for file in files if file.package == "laneguard.v1"]
        generated = descriptor_pb2.FileDescriptorProto()
        v1.DESCRIPTOR.CopyToProto(generated)
        for file in (schema, generated):
            file.ClearField("name")
            file.ClearField("source_code_info")
            strip_json_names(file.message_type)
        self.assertEqual(generated, schema)


def strip_json_names(messages):
    """Compilers write the default ones or leave them out."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        strip_json_names(message.nested_type)


if __name__ == "__main__":
    unittest.main()
