"""Rows/s and memory of prepare against hand-written pandas scripts and NVTabular on CPU.

    python -m tests.benchmarks.bench_prepare --rows 1000000 10000000 --spark-memory 8g \\
        --nvtabular-python nvtabular-venv/bin/python

The rows are synthetic, in the Criteo shape, as raw Parquet. Every contender is a process of its own that does
the work which `tests.benchmarks.preparing` describes; what each wrote is counted. `spark_copy_*` are floors
rather than contenders: Spark only copies the rows, see `tests.benchmarks.preparing.spark_copy`.

Prints a table, or with `--json` one object {"rows": [...]}. Peak memory and CPU seconds are those of all
processes of a contender together.

NVTabular's environment:

    uv venv --python 3.11 nvtabular-venv
    uv pip install --python nvtabular-venv/bin/python -r tests/benchmarks/nvtabular.txt
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.benchmarks.preparing import DENSE, FRACTIONS, LABEL, SPARSE, SPLITS
from tests.benchmarks.preparing.raw_rows import write_raw_rows
from tests.benchmarks.process_memory import TreeMemory

ROOT = Path(__file__).parents[2]
MODULES = "tests.benchmarks.preparing"
COPIES = ("jvm", "arrow", "tasks")


def commands(options: argparse.Namespace) -> dict[str, tuple[list[str], list[str]]]:
    """Return the contenders: program and module, and arguments after the folders."""
    found = {
        "shardrec": ([sys.executable, "-m", f"{MODULES}.shardrec_rows"], [options.spark_memory]),
        "pandas": ([sys.executable, "-m", f"{MODULES}.pandas_rows"], []),
        "pandas_whole": ([sys.executable, "-m", f"{MODULES}.pandas_whole"], []),
    }
    for how in COPIES:
        copy = [sys.executable, "-m", f"{MODULES}.spark_copy"]
        found[f"spark_copy_{how}"] = copy, [options.spark_memory, how]
    if options.nvtabular_python:
        # Not resolved: the link inside an environment is what makes its Python see its packages.
        python = str(Path(options.nvtabular_python).absolute())
        found["nvtabular"] = ([python, "-m", f"{MODULES}.nvtabular_rows"], [])
    return {name: found[name] for name in found if name in options.contenders}


def measure(command: tuple[list[str], list[str]], raw: Path, out: Path, rows: int) -> dict[str, Any]:
    """Run one contender and return what it says, its peak memory and whether its rows are whole."""
    program, arguments = command
    shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(
        [*program, str(raw), str(out), *arguments],
        cwd=ROOT,
        # Merlin warns in every process of each library for GPUs that is not there.
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with TreeMemory(process.pid) as memory:
        printed, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(program)} failed with exit code {process.returncode}")
    (check_copied if "spark_copy" in program[-1] else check_rows)(out, rows)
    facts = json.loads(printed.splitlines()[-1])
    java = memory.peak_gib_of.get("java")
    return facts | {"peak_gib": memory.peak_gib} | ({"java_gib": java} if java else {})


def check_rows(out: Path, rows: int) -> None:
    """Check that every row was written once, with all columns, and that the splits have their shares."""
    counts = []
    for split in SPLITS:
        files = [pq.ParquetFile(file) for file in sorted((out / split).rglob("*.parquet"))]
        assert {LABEL, *DENSE, *SPARSE} <= set(files[0].schema_arrow.names)
        counts.append(sum(file.metadata.num_rows for file in files))
    assert sum(counts) == rows, (counts, rows)
    assert all(abs(n / rows - share) < 0.02 for n, share in zip(counts, FRACTIONS, strict=True)), counts


def check_copied(out: Path, rows: int) -> None:
    """Check that every row was copied, with all columns."""
    files = [pq.ParquetFile(file) for file in sorted(out.glob("*.parquet"))]
    assert {LABEL, *DENSE, *SPARSE} <= set(files[0].schema_arrow.names)
    assert sum(file.metadata.num_rows for file in files) == rows


def measured(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure every contender at every number of rows, in turns; medians of the repeats."""
    lines = []
    for rows in options.rows:
        raw = folder / f"raw-{rows}"
        write_raw_rows(raw, rows)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands(options)}
        for _ in range(options.repeats):
            for name, command in commands(options).items():
                found[name].append(measure(command, raw, folder / "out", rows))
                print(f"{rows:,} rows, {name}: {found[name][-1]}", file=sys.stderr)
        lines += [_line(name, rows, facts) for name, facts in found.items()]
        shutil.rmtree(raw)
    ours = {line["row_count"]: line["value"] for line in lines if line["contender"] == "shardrec"}
    for line in lines:
        if line["contender"] != "shardrec" and line["row_count"] in ours:
            line["ratio"] = round(line["value"] / ours[line["row_count"]], 3)
            line["against"] = f"shardrec, {line['row_count']:,} rows"
    return lines


def _line(name: str, rows: int, facts: list[dict[str, Any]]) -> dict[str, Any]:
    median = {key: statistics.median(one[key] for one in facts) for key in facts[0]}
    return {
        "name": f"{name}, {rows:,} rows",
        "value": round(rows / median["seconds"]),
        "unit": "synthetic rows/s",
        "ratio": None,
        "against": None,
        "contender": name,
        "row_count": rows,
        **{key: round(value, 3) for key, value in median.items()},
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the lines as a Markdown table."""
    heads = {
        "value": "rows/s", "seconds": "seconds", "cpu_seconds": "CPU seconds",
        "peak_gib": "peak, all processes", "java_gib": "peak, JVM",
        "heap_limit_gib": "heap limit", "heap_peak_gib": "heap peak", "heap_live_gib": "heap live at the end",
        "python_driver_gib": "peak, driver's Python",
    }  # fmt: skip
    ours = {line["row_count"]: line["value"] for line in lines if line["contender"] == "shardrec"}
    text = ["| synthetic rows | shardrec is | " + " | ".join(heads.values()) + " |"]
    text.append("|" + "---|" * (len(heads) + 2))
    for line in lines:
        base = ours.get(line["row_count"])
        times = f"{base / line['value']:.2f} x" if base and line["contender"] != "shardrec" else ""
        cells = [f"{line[key]:,}" if key in line else "" for key in heads]
        text.append("| " + " | ".join([line["name"], times, *cells]) + " |")
    return "\n".join([*text, "", "Memory in GiB."])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--spark-memory", default="8g", help="heap limit of the JVM (-Xmx)")
    parser.add_argument("--nvtabular-python", help="Python of an environment with NVTabular")
    names = ["shardrec", "pandas", "pandas_whole", *(f"spark_copy_{how}" for how in COPIES), "nvtabular"]
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--folder", help="where the rows go meanwhile (default: the system's temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lines = measured(options, Path(folder))
    print(json.dumps({"rows": lines}, indent=1) if options.json else table(lines))


if __name__ == "__main__":
    main()
