"""Print a Markdown table of the metrics of an audit: audit_table.py metrics.json, as audit or crossval wrote it."""

import json
import sys
from pathlib import Path

from mammovae.auditing.audit_result import MEASURES
from mammovae.report.audit_charts import number_texts
from mammovae.statistics.bootstrap import Estimate

METRICS = json.loads(Path(sys.argv[1]).read_text())


def cell(prefix: str, name: str) -> str:
    """Return a metric with its interval, or a dash."""
    key = f"{prefix}{name}"
    if METRICS.get(key) is None:
        return "–"
    value, interval = number_texts(Estimate(METRICS[key], METRICS[f"{key}_low"], METRICS[f"{key}_high"], 0, 0))
    return f"{value} ({interval})"


names = [one.name for one in MEASURES]
arms = [key.removesuffix("kernel_distance") for key in METRICS if key.endswith("kernel_distance") and "less" not in key]
heads = [arm.strip("_").replace("_", ", ") or "generated" for arm in arms]
print("| | " + " | ".join(heads) + " |")
print("|---" * (len(heads) + 1) + "|")
for one in MEASURES:
    print(f"| {one.label} | " + " | ".join(cell(arm, one.name) for arm in arms) + " |")
print()
for key in METRICS:
    if "_less_" in key and not key.endswith(("_low", "_high")):
        print(f"| {key.replace('_', ' ')} | {cell('', key)} |")
print()
print("\n".join(f"- {line}" for line in METRICS["conclusions"]))
