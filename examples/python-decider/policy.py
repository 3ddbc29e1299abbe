"""What an operator wants, as an entry of the bucket `laneguard-policies` says it."""

import re

CEILING_BPS = 1e9  # works as the maximum of a class that has none
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "day": 86400, "days": 86400}


def seconds(text):
    """`15s`, `1m30s`."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)\s*([a-z]+)", text))


def bps(quantity):
    """`10M`, `2500k`, `10Mi`: bits per second."""
    number, suffix, binary = re.fullmatch(r"([\d.]+)([kKMGT]?)(i?)", str(quantity)).groups()
    return float(number) * (1024 if binary else 1000) ** " KMGT".index(suffix.upper() or " ")


class Policy:
    """`targets`: workload -> metric -> ms. `classes`: name -> minBps, maxBps, open (it has no maximum: at the top it is given back)."""

    def __init__(self, entry):
        spec, namespace = entry["spec"], entry.get("namespace", "")
        self.uid, self.generation = entry.get("uid", ""), entry.get("generation", 0)
        self.mode = spec.get("mode", "Observe")
        self.is_ours = spec.get("control", {}).get("law") == "External" and self.mode in ("Observe", "Enforce")
        self.targets, self.classes = {}, {}
        for critical in spec["critical"]:
            workload = f"{critical.get('namespace') or namespace}_{critical['workload']}".replace(".", "_")
            self.targets[workload] = {t["metric"]: seconds(t["below"]) * 1000 for t in critical["targets"]}
        for best_effort in spec["bestEffort"]:
            bounds = best_effort.get("bandwidth", {})
            least, most = bps(bounds.get("min", "10M")), bounds.get("max")
            most_bps = bps(most) if most else max(CEILING_BPS, least)
            self.classes[best_effort["class"]] = {"minBps": least, "maxBps": most_bps, "open": not most}
        stale = spec.get("onStale", {})
        self.valid_for_s = seconds(stale.get("after", "15s"))
        self.on_stale = stale.get("action", "Hold").upper()
