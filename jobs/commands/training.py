"""Verbs that train and evaluate."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.commands.base import (
    Command,
    Outcome,
    cluster_of,
    config_arguments,
    launch_arguments,
    load_config,
    positive,
    run_of,
)
from jobs.commands.metric_text import metric_lines, segment_lines
from trainer.errors import PlanError, UserError

if TYPE_CHECKING:
    from sharding.plan import Plan
    from trainer.config import RunConfig


def _train_arguments(parser: ArgumentParser) -> None:
    config_arguments(parser)
    launch_arguments(parser)
    parser.add_argument("--data", help="data set folder or URL, s3://... (default prepared/<name>)")
    parser.add_argument("--out", help="run folder (default runs/<name>)")
    parser.add_argument("--plan", help="plan.json to train with (default: a new plan)")
    parser.add_argument(
        "--replan",
        action="store_true",
        help="plan again, in the run folder, where the plan of --plan is not for this run",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def _train(arguments: Namespace) -> Outcome | None:
    from jobs.launch import torchrun_rank
    from jobs.verbs import dataset_folder, train

    run = load_config(arguments)
    data = dataset_folder(run, arguments.data)
    layout = _given_plan(arguments)
    cluster = cluster_of(arguments, run)
    _say_where_it_starts(arguments, run)
    result = train(
        run, data, cluster, layout, out=arguments.out, resume=arguments.resume, replan=arguments.replan
    )
    if cluster.on == "torchrun" and torchrun_rank():
        return None
    return Outcome(_result_text(result.as_json()), result.as_json())


def _given_plan(arguments: Namespace) -> Plan | None:
    """Return the plan of `--plan`; with `--replan` None for a file that is there and cannot be used."""
    from sharding.plan import Plan

    if arguments.plan is None:
        if arguments.replan:
            raise UserError(
                "--replan belongs to --plan: without a plan, train makes a new one anyway",
                where="--replan",
                fixes=["leave it out", "name the plan: --plan FILE"],
            )
        return None
    path = Path(arguments.plan)
    try:
        return Plan.load(path)
    except PlanError as error:
        if not (arguments.replan and path.is_file()):
            raise
        place = error.where.removeprefix(str(path))
        print(f"train: {path} is left out, and a new plan made: {error.what}{place}", file=sys.stderr)  # noqa: T201
        return None


def _say_where_it_starts(arguments: Namespace, run: RunConfig) -> None:
    """Tell a person whose `--resume` finds nothing that the run starts anew."""
    from jobs.verbs import run_folder

    folder = run_folder(run, arguments.out)
    if arguments.resume and not folder.saved_checkpoints():
        print(f"{folder.path} holds no checkpoint: starting at step 0", file=sys.stderr)  # noqa: T201


def _result_text(value: dict[str, Any]) -> str:
    lines = [f"run: {value['run']}  ({value['stopped']} after {value['steps']} steps)"]
    lines += metric_lines(value["metrics"], {}, "valid ")
    lines.append(f"samples/s: {value['samples_per_second']:,.0f}")
    return "\n".join(lines)


def _evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    launch_arguments(parser)
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"])
    parser.add_argument("--by", help="kept raw column to break the metrics down by")
    parser.add_argument("--data", help="another data set of the same feature spec")
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")
    parser.add_argument(
        "--on-corrupt",
        choices=["fail", "skip"],
        help="at damaged part files (default: the run's data.on_corrupt)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="LEVEL",
        help="give confidence intervals by bootstrap, such as 0.95 (default: the run's metrics.confidence)",
    )
    parser.add_argument(
        "--candidates",
        type=_candidates,
        metavar="N|all",
        help="rank targets of user rows among N drawn items, or all (default: the run's metrics.candidates)",
    )


def _candidates(text: str) -> int | Literal["all"]:
    return "all" if text == "all" else positive(text)


def _evaluate(arguments: Namespace) -> Outcome:
    from jobs.verbs import evaluate

    found = evaluate(
        arguments.run_folder,
        arguments.split,
        arguments.by,
        data=arguments.data,
        cluster=cluster_of(arguments, run_of(arguments)),
        checkpoint=arguments.checkpoint,
        on_corrupt=arguments.on_corrupt,
        confidence=arguments.confidence,
        candidates=arguments.candidates,
    )
    skipped = f" ({found.rows_skipped:,} in damaged row groups skipped)" if found.rows_skipped else ""
    lines = [f"{found.split}: {found.rows:,} rows{skipped}"]
    lines += metric_lines({n: v for n, v in found.metrics.items() if n != "rows"}, found.intervals)
    for table, told in found.ids.items():
        share = 100 * told["oov_share"]
        lines.append(f"ids of table {table}: {share:.2f} % of {told['lookups']:,} lookups without a row")
    for column, groups in found.by.items():
        lines += [f"by {column}:", *segment_lines(groups)]
    return Outcome("\n".join(lines), found.as_json())


def _baseline_arguments(parser: ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--model", required=True, help="popularity, item_knn or als")
    parser.add_argument(
        "--option",
        dest="options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an option of the baseline, for instance neighbours=200",
    )
    parser.add_argument("--data", help="data set folder or URL, s3://... (default prepared/<name>)")
    parser.add_argument("--out", help="folder of the result (default runs/<name>_<model>)")
    parser.add_argument("--split", choices=["valid", "test"], help="measure this one alone (default: both)")
    parser.add_argument("--by", help="kept raw column to break the metrics down by")
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="LEVEL",
        help="give confidence intervals by bootstrap, such as 0.95 (default: metrics.confidence)",
    )


def _baseline(arguments: Namespace) -> Outcome:
    from jobs.baselines import baseline
    from jobs.verbs import dataset_folder
    from trainer.baselines.sections import baseline_section

    run = load_config(arguments)
    options = {}
    for option in arguments.options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(
                "an option has a name and a value", where="--option", got=option, allowed="NAME=VALUE"
            )
        options[name] = value
    baseline_section(
        arguments.model, options
    )  # refuses names such as `out`, which the verb would take for its own
    splits = ("valid", "test") if arguments.split is None else (arguments.split,)
    found = baseline(
        run,
        dataset_folder(run, arguments.data),
        arguments.model,
        out=arguments.out,
        splits=splits,
        by=arguments.by,
        confidence=arguments.confidence,
        **options,
    )
    lines = [f"baseline: {found.path}  ({found.model})"]
    for split, one in found.evaluations.items():
        lines.append(f"{split}: {one.rows:,} rows")
        lines += metric_lines({n: v for n, v in one.metrics.items() if n != "rows"}, one.intervals)
        for column, groups in one.by.items():
            lines += [f"by {column}:", *segment_lines(groups)]
    return Outcome("\n".join(lines), found.as_json())


COMMANDS = (
    Command("train", "train a model on one or many ranks", _train_arguments, _train),
    Command("evaluate", "compute the metrics of a run on a split", _evaluate_arguments, _evaluate),
    Command("baseline", "fit and measure popularity, item-kNN or ALS", _baseline_arguments, _baseline),
)
