"""The command line: `shardrec <verb>` or `spark-submit jobs/cli.py <verb>`.

stdout carries the result (one JSON object with `--json`), stderr everything else. Exit codes: 0 done, 1
failed, 2 the input is wrong, 130 stopped by Ctrl-C (one message, no traceback without `--debug`).
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

if __package__ in {None, ""}:  # spark-submit runs this file by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs import commands
from trainer.errors import ShardrecError, UserError

_PY4J = "An error occurred while calling"
_LONGEST_LINE = 400


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    from trainer.run_folder import versions  # takes a second to import: time for a Ctrl-C

    parser = argparse.ArgumentParser(
        prog="shardrec",
        description="Train deep recommender models whose embedding tables outgrow one machine.",
    )
    parser.add_argument("--version", action="version", version=f"shardrec {versions().get('shardrec', '')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for command in commands.COMMANDS:
        sub = verbs.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = argparse.Namespace(json=False, debug=False)
    try:
        build_parser().parse_args(argv, arguments)
        outcome = arguments.run(arguments)
    except ShardrecError as error:
        return _report(error, arguments)
    except OSError as error:
        place = str(error.filename or "")
        return _report(UserError(error.strerror or str(error), where=place), arguments)
    except KeyboardInterrupt:
        # An interrupt inside an `exec`, as dataclasses run, makes Python end by the signal; this undoes it.
        exec("")  # noqa: S102
        print("shardrec: stopped at once", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:
        return _report(_unexpected(error, arguments.debug), arguments)
    if outcome is not None:
        from trainer.run_folder import finite

        text = json.dumps(finite(outcome.value), ensure_ascii=False) if arguments.json else outcome.text
        print(text)  # noqa: T201
    return 0


def _unexpected(error: Exception, debug: bool) -> ShardrecError:
    """Return an error that is not ours in the form of ours, with the place that a bug report needs."""
    # py4j puts its own sentence above the error that it passes on.
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(_PY4J)]
    text = f": {lines[0].strip()[:_LONGEST_LINE]}" if lines else ""
    frames = traceback.extract_tb(error.__traceback__)
    return ShardrecError(
        f"unexpected error: {type(error).__name__}{text}",
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
        fixes=[] if debug else ["run again with --debug for the traceback"],
    )


def _report(error: ShardrecError, arguments: argparse.Namespace) -> int:
    if arguments.debug:
        traceback.print_exc()
    if arguments.json:
        print(json.dumps(error.as_json(), ensure_ascii=False))  # noqa: T201
    kind = "shardrec" if type(error) is ShardrecError else type(error).__name__
    print(f"{kind}: {error}", file=sys.stderr)  # noqa: T201
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
