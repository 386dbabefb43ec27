"""Verbs that use a finished run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from jobs.commands.base import Command, Outcome, cluster_of, launch_arguments, positive, run_of, whole


def _recommend_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    launch_arguments(parser)
    parser.add_argument("--input", help="file or folder of the raw rows (default: those that were prepared)")
    parser.add_argument("--users", required=True, help="user ids, separated by commas")
    parser.add_argument("--k", type=positive, default=10, help="items per user")
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
        cluster=cluster_of(arguments, run_of(arguments)),
        checkpoint=arguments.checkpoint,
    )
    if arguments.input is None and arguments.checkpoint is None:  # for the report
        write_json(RunFolder(Path(arguments.run_folder)).recommendations_file, found.as_json())
    if arguments.out:
        found.write_parquet(Path(arguments.out))
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
    parser.add_argument("--skip-top", type=whole, default=0, help="best items of each user to leave out")
    parser.add_argument("--checkpoint", help="name of a checkpoint (default: the run's choice)")
    parser.add_argument("--out", help="Parquet file to write (default: RUN/mined_negatives.parquet)")


def _number_or_all(text: str) -> int | None:
    return None if text == "all" else positive(text)


def _mine(arguments: Namespace) -> Outcome:
    from jobs.scoring.mining import mine_negatives

    named = arguments.users
    found = mine_negatives(
        arguments.run_folder,
        arguments.out or Path(arguments.run_folder) / "mined_negatives.parquet",
        arguments.k,
        skip_top=arguments.skip_top,
        candidates_per_user=arguments.candidates_per_user,
        exclude=arguments.exclude,
        users=None if named is None else [user.strip() for user in named.split(",") if user.strip()],
        events=arguments.input,
        cluster=cluster_of(arguments, run_of(arguments)),
        checkpoint=arguments.checkpoint,
    )
    return Outcome(f"{found.rows:,} negatives of {found.users:,} users: {found.path}", found.as_json())


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="run folder or data set folder")


def _report(arguments: Namespace) -> Outcome:
    from trainer.reporting import is_dataset, write_report

    folder = Path(arguments.folder)
    if is_dataset(folder):
        return _data_report(folder)
    path = write_report(folder)
    return Outcome(f"report: {path}", {"report": str(path)})


def _data_report(folder: Path) -> Outcome:
    from trainer.reporting.data import write_data_report

    report = write_data_report(folder)
    lines = [finding.line() for finding in report.findings]
    value = {"report": str(report.path), "findings": [finding.as_json() for finding in report.findings]}
    return Outcome("\n".join([*lines, f"report: {report.path}"]), value)


COMMANDS = (
    Command("recommend", "rank all items for users", _recommend_arguments, _recommend),
    Command("mine", "write hard negatives: unseen items that a run scores highest", _mine_arguments, _mine),
    Command("report", "write the HTML report of a run or a data set", _report_arguments, _report),
)
