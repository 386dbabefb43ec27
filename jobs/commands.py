"""What each verb of the command line takes and does; `jobs.cli` parses and prints."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError

if TYPE_CHECKING:
    from jobs.cluster import Cluster, On
    from trainer.config import RunConfig


@dataclass(frozen=True)
class Outcome:
    """A result for stdout: a text for people, a JSON-able value for machines."""

    text: str
    value: Any


@dataclass(frozen=True)
class Command:
    """One verb."""

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Outcome | None]


def _config_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", help="YAML run config, for instance jobs/configs/criteo_dlrm.yaml")
    _override_argument(parser)


def _override_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a config key, for instance train.max_steps=100",
    )


def _launch_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--on",
        choices=["process", "local", "spark", "torchrun"],
        help="where ranks run (default: process for one rank, local for several)",
    )
    parser.add_argument("--ranks", type=_positive, help="number of ranks (default 1; spark: one per slot)")
    parser.add_argument("--master", help="Spark master URL for --on spark, for instance spark://host:7077")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a whole number above 0 is needed, not {text!r}")
    return int(text)


def load_config(arguments: Namespace) -> RunConfig:
    """Load and check the config with its overrides: sections, feature ops and the model's own keys."""
    from jobs.preparation.feature_ops import check_ops
    from trainer.config import RunConfig
    from trainer.registry import model_section

    run = RunConfig.load(arguments.config, arguments.overrides)
    check_ops(run)
    model_section(run.model)
    return run


def cluster_of(arguments: Namespace) -> Cluster:
    """Return the cluster that `--on`, `--ranks` and `--master` name."""
    from jobs.cluster import Cluster
    from jobs.launch import torchrun_rank, torchrun_world_size

    ranks = arguments.ranks
    on: On = arguments.on or ("process" if (ranks or 1) == 1 else "local")
    if arguments.master and on != "spark":
        raise UserError("--master belongs to --on spark", where=f"--on {on}", fixes=["add --on spark"])
    if on == "spark":
        from jobs.session import spark_session

        return Cluster.from_spark(spark_session("shardrec", master=arguments.master), ranks)
    if on == "torchrun":
        # WORLD_SIZE alone says nothing: cluster managers set it for other purposes too.
        inside = torchrun_rank() is not None
        return Cluster.local(torchrun_world_size(ranks) if inside else ranks or 1, on="torchrun")
    if on == "process" and (ranks or 1) > 1:
        raise UserError(
            "one process is one rank",
            where="--on process",
            got=f"--ranks {ranks}",
            fixes=[f"--on local --ranks {ranks}", "--ranks 1"],
        )
    return Cluster.local(ranks or 1, on=on)


def _prepare_arguments(parser: ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows, in place of data.root")
    parser.add_argument("--out", help="data set folder (default prepared/<name>)")
    parser.add_argument("--master", help="Spark master URL (default: the active session, else local[*])")


def _prepare(arguments: Namespace) -> Outcome:
    from jobs.attended import PHASES, phases_on_stderr
    from jobs.session import spark_session
    from jobs.verbs import prepare

    run = load_config(arguments)
    with phases_on_stderr():
        PHASES.info("starting Spark")
        spark = spark_session("shardrec prepare", master=arguments.master)
        dataset = prepare(arguments.input, run, arguments.out, spark=spark)
    return Outcome(f"{dataset.report}\ndata set: {dataset.path}", dataset.as_json())


def _plan_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="YAML run config")
    _override_argument(parser)
    parser.add_argument("--data", help="data set folder (default prepared/<name>)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cluster", help="cluster to plan for, NODESxGPUSxGPU: 2x8xh100, 1x2xcpu")
    where.add_argument("--ranks", type=_positive, help="ranks on this host, in place of --cluster")
    parser.add_argument("--batch-size-per-rank", type=_positive, help="default global_batch_size / ranks")
    parser.add_argument("--out", help="file to write (default plan.json inside the data set folder)")
    parser.add_argument(
        "--diff",
        nargs="+",
        metavar="PLAN",
        help="compare: one plan file with the new plan, or two plan files with each other",
    )


def _plan(arguments: Namespace) -> Outcome:
    from jobs.cluster import Cluster
    from jobs.planning import plan
    from jobs.verbs import dataset_folder
    from sharding import topology
    from sharding.plan import Plan
    from sharding.report import plan_report

    diff = arguments.diff or []
    if len(diff) > 2 or (len(diff) == 2) == (arguments.config is not None):
        raise UserError(
            "plan takes a config, or two plan files to compare",
            where="shardrec plan",
            fixes=["shardrec plan CONFIG", "shardrec plan CONFIG --diff OLD", "shardrec plan --diff OLD NEW"],
        )
    if len(diff) == 2:
        return _diff(Plan.load(Path(diff[0])), Plan.load(Path(diff[1])))
    run = load_config(arguments)
    data = dataset_folder(run, arguments.data)
    cluster: topology.Cluster = Cluster.local(arguments.ranks or 1)
    if arguments.cluster:
        cluster = topology.Cluster.parse(arguments.cluster)
    new = plan(run, data, cluster, batch_size_per_rank=arguments.batch_size_per_rank)
    if diff:
        if arguments.out:
            new.save(Path(arguments.out))
        return _diff(Plan.load(Path(diff[0])), new)
    path = Path(arguments.out) if arguments.out else data / "plan.json"
    new.save(path)
    return Outcome(f"{plan_report(new)}\nplan: {path}", {**new.summary(), "plan": str(path)})


def _diff(old: Any, new: Any) -> Outcome:
    lines = old.diff(new)
    return Outcome("\n".join(lines) or "the plans are the same", {"differences": lines})


def _train_arguments(parser: ArgumentParser) -> None:
    _config_arguments(parser)
    _launch_arguments(parser)
    parser.add_argument("--data", help="data set folder (default prepared/<name>)")
    parser.add_argument("--out", help="run folder (default runs/<name>)")
    parser.add_argument("--plan", help="plan.json to train with (default: a new plan)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def _train(arguments: Namespace) -> Outcome | None:
    from jobs.launch import torchrun_rank
    from jobs.verbs import dataset_folder, train
    from sharding.plan import Plan

    run = load_config(arguments)
    data = dataset_folder(run, arguments.data)
    layout = Plan.load(Path(arguments.plan)) if arguments.plan else None
    cluster = cluster_of(arguments)
    _say_where_it_starts(arguments, run)
    result = train(run, data, cluster, layout, out=arguments.out, resume=arguments.resume)
    if cluster.on == "torchrun" and torchrun_rank():
        return None
    return Outcome(_result_text(result.as_json()), result.as_json())


def _say_where_it_starts(arguments: Namespace, run: RunConfig) -> None:
    """Tell a person whose `--resume` finds nothing that the run starts anew."""
    from jobs.verbs import run_folder

    folder = run_folder(run, arguments.out)
    if arguments.resume and not folder.saved_checkpoints():
        print(f"{folder.path} holds no checkpoint: starting at step 0", file=sys.stderr)  # noqa: T201


def _result_text(value: dict[str, Any]) -> str:
    lines = [f"run: {value['run']}  ({value['stopped']} after {value['steps']} steps)"]
    lines += [f"valid {name}: {_number(number)}" for name, number in value["metrics"].items()]
    lines.append(f"samples/s: {value['samples_per_second']:,.0f}")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.5f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    _launch_arguments(parser)
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"])
    parser.add_argument("--by", help="kept raw column to break the metrics down by")
    parser.add_argument("--data", help="another data set of the same feature spec")
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")


def _evaluate(arguments: Namespace) -> Outcome:
    from jobs.verbs import evaluate

    found = evaluate(
        arguments.run_folder,
        arguments.split,
        arguments.by,
        data=arguments.data,
        cluster=cluster_of(arguments),
        checkpoint=arguments.checkpoint,
    )
    lines = [f"{found.split}: {found.rows:,} rows"]
    lines += [f"{name}: {_number(value)}" for name, value in found.metrics.items() if name != "rows"]
    for column, groups in found.by.items():
        lines.append(f"by {column}:")
        for group in groups:
            auc, ne = (_number(group["metrics"][name]) for name in ("auc", "ne"))
            value = "(missing)" if group["value"] is None else str(group["value"])
            lines.append(f"  {value:<24} {group['rows']:>9,} rows  auc {auc}  ne {ne}")
    return Outcome("\n".join(lines), found.as_json())


def _recommend_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    _launch_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows (default: those that were prepared)")
    parser.add_argument("--users", required=True, help="user ids, separated by commas")
    parser.add_argument("--k", type=_positive, default=10, help="items per user")
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")
    parser.add_argument("--out", help="write Parquet here as well")


def _recommend(arguments: Namespace) -> Outcome:
    from jobs.scoring.recommendation import recommend_lists
    from trainer.run_folder import RunFolder, write_json

    users = [user.strip() for user in arguments.users.split(",") if user.strip()]
    found = recommend_lists(
        arguments.run_folder,
        users,
        arguments.k,
        events=arguments.input,
        cluster=cluster_of(arguments),
        checkpoint=arguments.checkpoint,
    )
    if arguments.input is None and arguments.checkpoint is None:  # for the report
        write_json(RunFolder(Path(arguments.run_folder)).recommendations_file, found.as_json())
    if arguments.out:
        found.write_parquet(Path(arguments.out))
    return Outcome(found.text(), found.as_json())


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")


def _report(arguments: Namespace) -> Outcome:
    from trainer.reporting import write_report

    path = write_report(Path(arguments.run_folder))
    return Outcome(f"report: {path}", {"report": str(path)})


def _models(_: Namespace) -> Outcome:
    from trainer.registry import models

    entries = [
        {"name": entry.name, "task": entry.task, "source": entry.source, "summary": entry.summary}
        for entry in models().values()
    ]
    text = "\n".join(f"{e['name']:<12} {e['task']:<8} {e['summary']} ({e['source']})" for e in entries)
    return Outcome(text, {"models": entries})


def _config_verb_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=["schema", "show", "check"], help="what to do")
    parser.add_argument("config", nargs="?", help="YAML run config (show, check)")
    _override_argument(parser)
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
    parser.add_argument("--ranks", type=_positive, default=2, help="ranks (default %(default)s)")
    parser.add_argument("--data-only", action="store_true", help="only unpack MovieLens-100K to data/ml-100k")


def _quickstart(arguments: Namespace) -> Outcome:
    from jobs.first_run import first_run
    from jobs.movielens import unpack_movielens_100k

    if arguments.data_only:
        folder = unpack_movielens_100k(Path("data/ml-100k"))
        return Outcome(f"MovieLens-100K: {folder}", {"data": str(folder)})
    outcome = first_run(Path(arguments.folder), arguments.ranks)
    return Outcome(outcome.text(), outcome.as_json())


def _nothing(_: ArgumentParser) -> None:
    """Take no arguments of its own."""


COMMANDS = (
    Command("quickstart", "everything once, on MovieLens-100K", _quickstart_arguments, _quickstart),
    Command("prepare", "turn raw rows into sharded Parquet with PySpark", _prepare_arguments, _prepare),
    Command("plan", "plan the embedding tables on a cluster, or compare plans", _plan_arguments, _plan),
    Command("train", "train a model on one or many ranks", _train_arguments, _train),
    Command("evaluate", "compute the metrics of a run on a split", _evaluate_arguments, _evaluate),
    Command("recommend", "rank all items for users", _recommend_arguments, _recommend),
    Command("report", "write the HTML report of a run", _report_arguments, _report),
    Command("models", "list the models", _nothing, _models),
    Command("config", "check or show a config, export its JSON schema", _config_verb_arguments, _config_verb),
)
