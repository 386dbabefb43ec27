"""Seconds, memory and balance of sharding plans for many tables, trillions of parameters and Criteo-1TB.

    python -m tests.benchmarks.bench_plan [--case Criteo] [--repeats 3] [--against stock] [--json]

No GPU is needed. All tables but Criteo-1TB's are synthetic (log-uniform rows, seed 0). Every
run is a process of its own. Milliseconds are TorchRec's estimates, uncalibrated: they compare plans only.
`--against` also measures TorchRec's default proposers (`stock`) and its DynamicProgrammingProposer
(`dynamic-programming`, minutes) with the same topology and estimates on the cases of Criteo-1TB. Prints a
table, or with `--json` one object {"rows": [{"name", "value", "unit", "ratio", "against"}]}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.planning.cases import CASES

ROOT = Path(__file__).parents[2]
UNITS = {
    "seconds": "s",
    "peak_rss_gib": "GiB",
    "perf_max_ms": "ms",
    "perf_max_over_mean": "",
    "busy_ranks": "ranks",
    "hbm_max_gib": "GiB",
}
COMPARED = ("seconds", "perf_max_ms")


def measure(case: str, contender: str, repeats: int) -> dict[str, Any]:
    """Return medians over runs in processes of their own, of plans that must be the same each time."""
    runs = [_run(case, contender) for _ in range(repeats)]
    same = [{key: run[key] for key in run if key not in ("seconds", "peak_rss_gib")} for run in runs]
    if any(figures != same[0] for figures in same):
        raise RuntimeError(f"{contender} made different plans of {case}: {same}")
    medians = {key: statistics.median(run[key] for run in runs) for key in ("seconds", "peak_rss_gib")}
    return {**same[0], **medians}


def _run(case: str, contender: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.planning.contenders", case, contender],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{contender} failed on {case}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def as_rows(case: str, figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each figure; those of ours beside TorchRec's bear the ratio ours / theirs."""
    rows = [
        {"name": f"{case}, {contender}, {key}", "value": found[key], "unit": unit}
        for contender, found in figures.items()
        for key, unit in UNITS.items()
    ]
    for other in [name for name in figures if name != "shardrec"]:
        for key in COMPARED:
            ours, theirs = figures["shardrec"][key], figures[other][key]
            name = f"{case}, shardrec, {key}"
            rows.append(
                {
                    "name": name,
                    "value": ours,
                    "unit": UNITS[key],
                    "ratio": ours / theirs,
                    "against": f"{other}, {key}",
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="", help="only the cases whose names contain this")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--against", nargs="*", default=[], choices=["stock", "dynamic-programming"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, case in CASES.items():
        if options.case not in name:
            continue
        figures = {"shardrec": measure(name, "shardrec", options.repeats)}
        for other in options.against if case.against_stock else []:
            figures[other] = measure(name, other, options.repeats)
        for contender, found in figures.items():
            print(f"{name}, {contender}: {json.dumps(found)}", file=sys.stderr, flush=True)
        rows += as_rows(name, figures)
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        ratio = f"  {row['ratio']:.4f} of {row['against']}" if "ratio" in row else ""
        print(f"{row['name']:<70} {row['value']:>12.4f} {row['unit']:<6}{ratio}")


if __name__ == "__main__":
    main()
