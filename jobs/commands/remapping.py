"""The verb that takes a run to other vocabularies and larger tables."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from jobs.commands.base import Command, Outcome, config_arguments, load_config


def _remap_arguments(parser: ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--from", dest="run_folder", metavar="RUN", required=True, help="run folder to read")
    parser.add_argument("--checkpoint", help="name of a checkpoint of it (default: the run's choice)")
    parser.add_argument("--data", help="data set folder of the new run (default prepared/<name>)")
    parser.add_argument("--out", help="folder of the new run (default runs/<name>)")
    parser.add_argument("--trained-on", help="data set folder of the old run, where it was moved")


def _remap(arguments: Namespace) -> Outcome:
    from jobs.remapping import remap
    from jobs.verbs import dataset_folder

    run = load_config(arguments)
    data = dataset_folder(run, arguments.data)
    found = remap(
        arguments.run_folder,
        run,
        data,
        arguments.out,
        checkpoint=arguments.checkpoint,
        trained_on=arguments.trained_on,
    )
    for warning in found.warnings:
        print(f"remap: {warning}", file=sys.stderr)  # noqa: T201
    following = f"shardrec train {arguments.config} --data {data} --out {found.path} --resume"
    return Outcome(f"{found.text()}\ngo on: {following}", found.as_json())


COMMANDS = (
    Command("remap", "start a run from another one's rows, for other vocabularies", _remap_arguments, _remap),
)
