"""Verbs that show what there is: the first run, the models, the config."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from jobs.commands.base import (
    Command,
    Outcome,
    cluster_of,
    launch_arguments,
    load_config,
    nothing,
    override_argument,
)
from trainer.errors import UserError


def _models(_: Namespace) -> Outcome:
    from trainer.baselines.sections import BASELINES
    from trainer.registry import models

    entries = [
        {
            "name": entry.name,
            "task": entry.task,
            "several_tasks": entry.several_tasks,
            "needs": entry.needs,
            "source": entry.source,
            "summary": entry.summary,
        }
        for entry in models().values()
    ]
    lines = [
        f"{e['name']:<10} {e['task']:<10} {e['summary']}\n{'':<22}needs {e['needs']}; {e['source']}"
        for e in entries
    ]
    lines.append(f"to compare with, by `shardrec baseline`: {', '.join(BASELINES)}")
    return Outcome("\n".join(lines), {"models": entries, "baselines": list(BASELINES)})


def _config_verb_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=["schema", "show", "check"], help="what to do")
    parser.add_argument("config", nargs="?", help="YAML run config (show, check)")
    override_argument(parser)
    parser.add_argument("--out", help="file to write (schema)")


def _config_verb(arguments: Namespace) -> Outcome:
    from jobs.config_schema import run_config_schema

    if arguments.action == "schema":
        schema = run_config_schema()
        text = json.dumps(schema, indent=2)
        if arguments.out:
            Path(arguments.out).write_text(text + "\n", encoding="utf-8")
            return Outcome(f"schema: {arguments.out}", {"schema": arguments.out})
        return Outcome(text, schema)
    if arguments.config is None:
        raise UserError("a config is needed", where=f"shardrec config {arguments.action} CONFIG")
    run = load_config(arguments)
    if arguments.action == "check":
        return Outcome(f"{arguments.config}: fine", {"config": arguments.config, "valid": True})
    return Outcome(run.to_yaml().rstrip(), run.as_dict())


def _quickstart_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--folder",
        default="runs/quickstart",
        help="where everything goes; what an earlier quickstart left there is replaced (default %(default)s)",
    )
    launch_arguments(parser, ranks="2; process: 1; spark: one per slot")
    parser.add_argument("--data-only", action="store_true", help="only unpack MovieLens-100K to data/ml-100k")


def _quickstart(arguments: Namespace) -> Outcome:
    from jobs.first_run import first_run
    from jobs.movielens import unpack_movielens_100k

    if arguments.data_only:
        folder = unpack_movielens_100k(Path("data/ml-100k"))
        return Outcome(f"MovieLens-100K: {folder}", {"data": str(folder)})
    if arguments.ranks is None and arguments.on in (None, "local", "torchrun"):
        arguments.ranks = 2
    outcome = first_run(Path(arguments.folder), cluster_of(arguments))
    return Outcome(outcome.text(), outcome.as_json())


COMMANDS = (
    Command("quickstart", "everything once, on MovieLens-100K", _quickstart_arguments, _quickstart),
    Command("models", "list the models", nothing, _models),
    Command("config", "check or show a config, export its JSON schema", _config_verb_arguments, _config_verb),
)
