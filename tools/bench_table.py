"""Print the Markdown table of docs/results/performance.md from what run_benchmarks.py wrote: bench_table.py FILE."""

import json
import sys
from pathlib import Path

RESULTS = json.loads(Path(sys.argv[1]).read_text())
machine = RESULTS["machine"]
print(
    f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, {machine['versions']}; {machine['date']}"
)
print("\n| row | work | usual | ours | ratio | wanted |\n|---|---|---|---|---|---|")
for row in RESULTS["rows"]:
    usual, ours = ("–" if row[name] is None else f"{row[name]:.3g} {row['unit']}" for name in ("usual", "ours"))
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
    print(f"| `{row['name']}` | {row['work']} | {usual} | {ours} | {ratio} | {row['wanted'] or '–'} |")
print()
for row in RESULTS["rows"]:
    for note in row["notes"]:
        print(f"- `{row['name']}`: {note}")
