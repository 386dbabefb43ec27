"""Verbs that make data sets and copy them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from jobs.commands.base import Command, Outcome, config_arguments, load_config


def _prepare_arguments(parser: ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows, in place of data.root")
    parser.add_argument(
        "--out", help="data set folder, or a URL such as s3://bucket/ads (default prepared/<name>)"
    )
    parser.add_argument(
        "--staging",
        metavar="FOLDER",
        help="where a data set for a URL is made before it is copied (default: the temporary folder; "
        "on a cluster name one that all executors reach)",
    )
    parser.add_argument(
        "--append",
        choices=["frozen", "grow"],
        help="add the rows to the data set that is there; grow: new values get ids after the old ones",
    )
    parser.add_argument(
        "--append-to",
        choices=["train", "valid", "test"],
        help="split that all appended rows go to (default: as the config deals them)",
    )
    parser.add_argument(
        "--history-input",
        nargs="+",
        metavar="PATH",
        help="with --append: files or folders of the raw rows that the data set was made of, all of them; "
        "histories, `earlier` features, duplicates and negatives need them",
    )
    parser.add_argument("--master", help="Spark master URL (default: the active session, else local[*])")


def _prepare(arguments: Namespace) -> Outcome:
    from jobs.attended import PHASES, phases_on_stderr
    from jobs.session import spark_session
    from jobs.verbs import check_request, prepare

    run = load_config(arguments)
    given = {name: getattr(arguments, name) for name in ("append", "append_to", "staging")}
    given["history"] = arguments.history_input
    check_request(run, arguments.out, source=arguments.input, **given, master=arguments.master)
    with phases_on_stderr():
        PHASES.info("starting Spark")
        spark = spark_session("shardrec prepare", master=arguments.master)
        dataset = prepare(arguments.input, run, arguments.out, **given, spark=spark)
    return Outcome(f"{dataset.report}\ndata set: {dataset.path}", dataset.as_json())


def _copy_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", help="data set: a folder, or a URL such as s3://bucket/ads")
    parser.add_argument("target", help="folder or URL to make; a data set that is there is replaced")


def _copy(arguments: Namespace) -> Outcome:
    from jobs.attended import phases_on_stderr
    from jobs.copying import copy_dataset

    with phases_on_stderr():
        copy = copy_dataset(arguments.source, arguments.target)
    return Outcome(f"data set: {copy.path}", copy.as_json())


COMMANDS = (
    Command("prepare", "turn raw rows into sharded Parquet with PySpark", _prepare_arguments, _prepare),
    Command("copy", "copy a prepared data set to another folder or to a store", _copy_arguments, _copy),
)
