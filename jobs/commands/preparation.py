"""Verbs that make data sets."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from jobs.commands.base import Command, Outcome, config_arguments, load_config


def _prepare_arguments(parser: ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows, in place of data.root")
    parser.add_argument("--out", help="data set folder (default prepared/<name>)")
    parser.add_argument(
        "--append",
        choices=["frozen", "grow"],
        help="add the rows to the data set that is there; grow: new values get ids after the old ones",
    )
    parser.add_argument("--master", help="Spark master URL (default: the active session, else local[*])")


def _prepare(arguments: Namespace) -> Outcome:
    from jobs.attended import PHASES, phases_on_stderr
    from jobs.session import spark_session
    from jobs.verbs import prepare

    run = load_config(arguments)
    with phases_on_stderr():
        PHASES.info("starting Spark")
        spark = spark_session("shardrec prepare", master=arguments.master)
        dataset = prepare(arguments.input, run, arguments.out, append=arguments.append, spark=spark)
    return Outcome(f"{dataset.report}\ndata set: {dataset.path}", dataset.as_json())


COMMANDS = (
    Command("prepare", "turn raw rows into sharded Parquet with PySpark", _prepare_arguments, _prepare),
)
