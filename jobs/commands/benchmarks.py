"""Verbs that measure."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path

from jobs.commands.base import Command, Outcome, cluster_of, launch_arguments, positive


def _bench_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=["read", "hardware"],
        help="read: the readers, rows to batches; hardware: this machine, for the estimates of plans",
    )
    _hardware_arguments(parser)
    _reading_arguments(parser)


def _hardware_arguments(parser: ArgumentParser) -> None:
    launch_arguments(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="hardware: entry to write, for plan --hardware (default hardware.yaml)"
    )


def _reading_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER", help="prepared data set (default: generated rows)")
    parser.add_argument("--split", default="train", help="split of the data set (default %(default)s)")
    parser.add_argument(
        "--rows",
        type=positive,
        default=1_000_000,
        help="rows to generate, or about how many of the data set to read (default %(default)s)",
    )
    parser.add_argument(
        "--multi-hot", action="store_true", help="generate lists of 20 ids in place of the Criteo shape"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=2048, help="rows of a batch (default %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, help="passes of every reader (default %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=12,
        help="epochs over which resident memory is watched, 0 for none (default %(default)s)",
    )


def _bench(arguments: Namespace) -> Outcome:
    return _bench_hardware(arguments) if arguments.what == "hardware" else _bench_read(arguments)


def _bench_hardware(arguments: Namespace) -> Outcome:
    from jobs.benchmarks.calibrating import as_text, as_yaml, bench_hardware

    path = Path(arguments.out or "hardware.yaml")
    catalogue = bench_hardware(cluster_of(arguments), told=_on_stderr)
    path.write_text(as_yaml(catalogue))
    return Outcome(f"{as_text(catalogue)}\nwritten: {path}", {**catalogue, "file": str(path)})


def _bench_read(arguments: Namespace) -> Outcome:
    from jobs.benchmarks.figures import as_json, as_text
    from jobs.benchmarks.reading import ReadingTask, bench_read

    task = ReadingTask(**{field.name: getattr(arguments, field.name) for field in fields(ReadingTask)})
    figures = bench_read(task, _on_stderr)
    return Outcome(as_text(figures), as_json(figures))


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


COMMANDS = (Command("bench", "measure how fast readers or this machine are", _bench_arguments, _bench),)
