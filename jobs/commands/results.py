"""Verbs that use a finished run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from jobs.commands.base import Command, Outcome, cluster_of, launch_arguments, positive, run_of, whole
from trainer.errors import UserError


def _recommend_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    launch_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows (default: those that were prepared)")
    parser.add_argument(
        "--users", help="user ids, separated by commas (default for rows of users: all of the split)"
    )
    parser.add_argument("--k", type=positive, default=10, help="items per user")
    _split_argument(parser, "test")
    parser.add_argument(
        "--index", metavar="FOLDER", help="index of the run's items to ask, for rows of users"
    )
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")
    parser.add_argument("--out", help="write Parquet here as well")


def _split_argument(parser: ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--split",
        choices=["train", "valid", "test"],
        help=f"of rows of users, those to take (default: {default})",
    )


def _named(users: str | None) -> list[str] | None:
    return None if users is None else [user.strip() for user in users.split(",") if user.strip()]


def _recommend(arguments: Namespace) -> Outcome:
    from jobs.scoring.recommendation import recommend_lists
    from trainer.run_folder import RunFolder, write_json

    users = _named(arguments.users)
    if users is None and not arguments.out:
        raise UserError(
            "lists of all users go to a file",
            where="recommend",
            fixes=["--out FILE.parquet", "name some users: --users 1,42"],
        )
    found = recommend_lists(
        arguments.run_folder,
        users,
        arguments.k,
        events=arguments.input,
        split=arguments.split,
        index=arguments.index,
        cluster=cluster_of(arguments, run_of(arguments)),
        checkpoint=arguments.checkpoint,
    )
    if arguments.input is None and arguments.checkpoint is None and users is not None:  # for the report
        write_json(RunFolder(Path(arguments.run_folder)).recommendations_file, found.as_json())
    if arguments.out:
        found.write_parquet(Path(arguments.out))
    if users is None:
        items = sum(len(entry.items) for entry in found.users)
        value = {"recommendations": arguments.out, "users": len(found.users), "rows": items}
        return Outcome(f"{items:,} items for {len(found.users):,} users: {arguments.out}", value)
    return Outcome(found.text(), found.as_json())


def _index_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    launch_arguments(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the index")
    parser.add_argument(
        "--kind", choices=["flat", "ivf", "hnsw"], default="flat", help="kind of index (default: flat, exact)"
    )
    parser.add_argument(
        "--parameter",
        dest="parameters",
        action="append",
        type=_parameter,
        default=[],
        metavar="NAME=NUMBER",
        help="of the kind: nlist and nprobe of ivf; M, efConstruction and efSearch of hnsw",
    )
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")


def _parameter(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, positive(number)


def _index(arguments: Namespace) -> Outcome:
    from jobs.scoring.item_index import index

    found = index(
        arguments.run_folder,
        arguments.out,
        arguments.kind,
        parameters=dict(arguments.parameters),
        cluster=cluster_of(arguments, run_of(arguments)),
        checkpoint=arguments.checkpoint,
    )
    return Outcome(found.text(), found.as_json())


def _mine_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    launch_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows (default: those that were prepared)")
    parser.add_argument("--users", help="user ids, separated by commas (default: all users of the raw rows)")
    parser.add_argument("--k", type=positive, default=20, help="items per user")
    parser.add_argument(
        "--candidates-per-user",
        type=_number_or_all,
        default=1_000,
        metavar="N|all",
        help="items drawn for each user to be scored, or `all` (default: 1000)",
    )
    parser.add_argument(
        "--exclude",
        choices=["train", "known"],
        default="train",
        help="items that are no negatives of a user: `train`, those of the positives in train (default), or "
        "`known`, those of any raw row",
    )
    _split_argument(parser, "as --exclude says")
    parser.add_argument("--skip-top", type=whole, default=0, help="best items of each user to leave out")
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")
    parser.add_argument("--out", help="Parquet file to write (default: RUN/mined_negatives.parquet)")


def _number_or_all(text: str) -> int | None:
    return None if text == "all" else positive(text)


def _mine(arguments: Namespace) -> Outcome:
    from jobs.scoring.mining import mine_negatives

    found = mine_negatives(
        arguments.run_folder,
        arguments.out or Path(arguments.run_folder) / "mined_negatives.parquet",
        arguments.k,
        skip_top=arguments.skip_top,
        candidates_per_user=arguments.candidates_per_user,
        exclude=arguments.exclude,
        users=_named(arguments.users),
        events=arguments.input,
        split=arguments.split,
        cluster=cluster_of(arguments, run_of(arguments)),
        checkpoint=arguments.checkpoint,
    )
    return Outcome(f"{found.rows:,} negatives of {found.users:,} users: {found.path}", found.as_json())


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="run folder or data set folder")
    parser.add_argument(
        "--baseline",
        dest="baselines",
        action="append",
        default=[],
        metavar="FOLDER",
        help="show a baseline beside the run: a folder that `shardrec baseline` wrote; may be given again",
    )


def _report(arguments: Namespace) -> Outcome:
    from trainer.reporting import is_dataset, write_report

    folder, baselines = Path(arguments.folder), [Path(one) for one in arguments.baselines]
    if is_dataset(folder):
        if baselines:
            raise UserError(
                "baselines are shown beside a run, and this is a data set",
                where="--baseline",
                got=str(folder),
                fixes=["name the run folder", "leave --baseline out"],
            )
        return _data_report(folder)
    path = write_report(folder, baselines)
    if not baselines:
        return Outcome(f"report: {path}", {"report": str(path)})
    from trainer.reporting.baselines import compared, comparison_text
    from trainer.reporting.records import read_run

    found = compared(read_run(folder), baselines)
    value = {"report": str(path), "compared": [one.as_json() for one in found]}
    return Outcome(f"{comparison_text(found)}\nreport: {path}", value)


def _data_report(folder: Path) -> Outcome:
    from trainer.reporting.data import write_data_report

    report = write_data_report(folder)
    lines = [finding.line() for finding in report.findings]
    value = {"report": str(report.path), "findings": [finding.as_json() for finding in report.findings]}
    return Outcome("\n".join([*lines, f"report: {report.path}"]), value)


COMMANDS = (
    Command("recommend", "rank all items for users", _recommend_arguments, _recommend),
    Command("index", "write the items' vectors and a FAISS index over them", _index_arguments, _index),
    Command("mine", "write hard negatives: unseen items that a run scores highest", _mine_arguments, _mine),
    Command("report", "write the HTML report of a run or a data set", _report_arguments, _report),
)
