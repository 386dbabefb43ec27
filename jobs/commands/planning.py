"""The verb that plans: on a described cluster or on the cheapest that fits, and compares plans."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.commands.base import Command, Outcome, load_config, override_argument, positive
from jobs.limited import run_limited
from trainer.errors import UserError

if TYPE_CHECKING:
    from sharding.plan import Plan
    from trainer.config import RunConfig
    from trainer.storage import Place

_MAX_NODES, _MOST_NODES = 128, 10_000
_OF_A_NEW_PLAN = {
    "--set": "overrides",
    "--data": "data",
    "--cluster": "cluster",
    "--ranks": "ranks",
    "--hardware": "hardware",
    "--batch-size-per-rank": "batch_size_per_rank",
    "--out": "out",
    "--html": "html",
}


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="YAML run config")
    override_argument(parser)
    parser.add_argument(
        "--data",
        help="data set folder or URL, s3://... (default the tables of plan.tables, else prepared/<name>)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cluster", help="cluster to plan for: 2x8xh100, 2xp5.48xlarge, 1x2xcpu")
    where.add_argument("--ranks", type=positive, help="ranks on this host, in place of --cluster")
    where.add_argument(
        "--smallest",
        nargs="*",
        metavar="NODE",
        help="find the cheapest cluster that fits, of these kinds of nodes: p5.48xlarge, 8xh100 "
        "(default: every machine with a price)",
    )
    parser.add_argument("--max-nodes", type=positive, help="largest cluster of --smallest (default 128)")
    parser.add_argument(
        "--hardware", metavar="FILE", help="YAML with own GPUs and machines, as in plan.hardware"
    )
    parser.add_argument("--batch-size-per-rank", type=positive, help="default global_batch_size / ranks")
    parser.add_argument(
        "--out",
        help="file to write (default plan.json in the data set folder; NAME_plan.json where there is none)",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="also write a page with a heat map of ranks and tables"
    )
    parser.add_argument(
        "--compare",
        "--diff",
        nargs="+",
        metavar="PLAN",
        help="compare: one plan file with the new plan, or two plan files with each other",
    )
    parser.add_argument(
        "--time-limit",
        type=positive,
        default=900,
        metavar="SECONDS",
        help="planning is ended after this time whatever it does (default 900)",
    )


def _plan(arguments: Namespace) -> Outcome:
    """Plan in a process of its own, which can be ended: TorchRec's planner cannot be interrupted."""
    seconds: int = arguments.time_limit
    too_long = partial(_took_too_long, seconds)
    return run_limited(_plan_here, arguments, seconds, too_long, debug=arguments.debug)


def _took_too_long(seconds: int) -> Exception:
    from sharding.verdicts import NoPlanFoundError

    return NoPlanFoundError(
        f"no plan was found in {seconds} s, when planning was ended",
        where="--time-limit",
        fixes=[f"--time-limit {2 * seconds}", "name fewer tables.*.sharding_types"],
    )


def _plan_here(arguments: Namespace) -> Outcome:
    from jobs.verbs import dataset_folder
    from sharding.plan import Plan
    from sharding.report import plan_report

    compared = arguments.compare or []
    if len(compared) > 2 or (len(compared) == 2) == (arguments.config is not None):
        raise UserError(
            "plan takes a config, or two plan files to compare",
            where="shardrec plan",
            fixes=[
                "shardrec plan CONFIG",
                "shardrec plan CONFIG --compare OLD",
                "shardrec plan --compare OLD NEW",
            ],
        )
    _check_options(arguments, len(compared))
    # A plan that is to be compared is read before a new one may take its place.
    old = [Plan.load(Path(path)) for path in compared]
    if len(old) == 2:
        return _comparison(old[0], old[1])
    run = load_config(arguments)
    declared = bool(run.plan.tables) and arguments.data is None
    data = None if declared else dataset_folder(run, arguments.data)
    new = _new_plan(run, data, arguments)
    if old:
        if arguments.out:
            new.save(Path(arguments.out))
        page = _page(new, run.name, arguments.html)
        return _comparison(old[0], new, page)
    beside = data / "plan.json" if isinstance(data, Path) else Path(f"{run.name}_plan.json")
    path = new.save(Path(arguments.out) if arguments.out else beside)
    page = _page(new, run.name, arguments.html)
    text = f"{plan_report(new)}\nplan: {path}" + (f"\npage: {page}" if page else "")
    return Outcome(text, {**new.summary(), "plan": str(path), **({"page": page} if page else {})})


def _page(plan: Plan, name: str, path: str | None) -> str | None:
    if path is None:
        return None
    from trainer.reporting.plan_page import write_plan_page

    return str(write_plan_page(plan, Path(path), name))


def _new_plan(run: RunConfig, data: Place | None, arguments: Namespace) -> Plan:
    from jobs.cluster import Cluster
    from jobs.hardware import catalogue_of, with_own_figures
    from jobs.planning import Planning
    from jobs.smallest import node_kinds, smallest_plan
    from sharding import topology

    batch_size = arguments.batch_size_per_rank
    given = (run.plan.hardware, arguments.hardware)
    catalogue = catalogue_of(*given)
    if arguments.smallest is not None:
        kinds = node_kinds(arguments.smallest, catalogue)
        planning = Planning.open(run, data)
        most = arguments.max_nodes or _MAX_NODES
        return smallest_plan(planning, kinds, batch_size_per_rank=batch_size, max_nodes=most)
    if arguments.cluster is not None:
        cluster = topology.Cluster.parse(arguments.cluster, catalogue)
    else:
        cluster = with_own_figures(Cluster.local(arguments.ranks or 1), *given)
    return Planning.open(run, data).plan(cluster, batch_size)


def _check_options(arguments: Namespace, compared: int) -> None:
    """Refuse options that would have no effect, or a bad one."""
    if arguments.max_nodes is not None and arguments.smallest is None:
        raise UserError("--max-nodes belongs to --smallest", where="--max-nodes", fixes=["add --smallest"])
    if (arguments.max_nodes or 0) > _MOST_NODES:
        raise UserError(
            "the search for the smallest cluster looks at every number of nodes",
            where="--max-nodes",
            got=arguments.max_nodes,
            allowed=f"1 to {_MOST_NODES}",
        )
    if arguments.out is not None and arguments.out == arguments.html:
        raise UserError("plan and page need a file each", where="--html", got=arguments.html)
    given = [option for option, name in _OF_A_NEW_PLAN.items() if getattr(arguments, name) not in (None, [])]
    if compared == 2 and (given or arguments.smallest is not None):
        raise UserError(
            "this is for a new plan, and two plan files make none",
            where=", ".join(given) or "--smallest",
            fixes=["leave it out", "make a new plan: shardrec plan CONFIG --compare OLD"],
        )


def _comparison(old: Plan, new: Plan, page: str | None = None) -> Outcome:
    lines = old.diff(new)
    text = "\n".join(lines) or "the plans are the same"
    if page is None:
        return Outcome(text, {"differences": lines})
    return Outcome(f"{text}\npage: {page}", {"differences": lines, "page": page})


COMMANDS = (Command("plan", "plan the embedding tables on a cluster, or compare plans", _arguments, _plan),)
