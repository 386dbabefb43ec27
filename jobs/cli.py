"""The command line: `shardrec <verb>` or `spark-submit jobs/cli.py <verb>`.

stdout carries the result (one JSON object with `--json`), stderr everything else. Exit codes: 0 done, 1
failed, 2 the input is wrong, 130 stopped by Ctrl-C (one message, no traceback without `--debug`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

if __package__ in {None, ""}:  # spark-submit runs this file by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs import commands
from jobs.attended import stopping_at_once
from jobs.errors import unexpected
from trainer.config.messages import did_you_mean
from trainer.errors import ShardrecError, UserError

_WRONG_CHOICE = re.compile(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)")


class Interrupted(ShardrecError):  # noqa: N818 - nothing went wrong
    """A Ctrl-C ended the command."""

    exit_code = 130


class _Parser(argparse.ArgumentParser):
    """Tells a wrong command line as every other mistake is told, to people and to machines."""

    def error(self, message: str) -> NoReturn:
        overview = f"{self.prog} --help"
        found = _WRONG_CHOICE.fullmatch(message)
        if found is None:
            raise UserError(message, where=self.prog, fixes=[overview])
        name, got, choices = found.groups()
        allowed = [choice.strip("'") for choice in choices.split(", ")]  # Python 3.12 has dropped the quotes.
        fixes = [did_you_mean(got, allowed), overview]
        message = "no such verb" if name == "VERB" else f"{name} does not take this value"
        raise UserError(
            message, where=self.prog, got=got, allowed=allowed, fixes=[fix for fix in fixes if fix]
        )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    from trainer.run_folder import versions  # takes a second to import: time for a Ctrl-C

    parser = _Parser(
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
    # Known before the parser has read them: it may refuse what stands beside them.
    given = sys.argv[1:] if argv is None else argv
    arguments = argparse.Namespace(json="--json" in given, debug="--debug" in given)
    try:
        build_parser().parse_args(given, arguments)
        with stopping_at_once():
            outcome = arguments.run(arguments)
    except ShardrecError as error:
        return _report(error, arguments)
    except OSError as error:
        place = str(error.filename or "")
        return _report(UserError(error.strerror or str(error), where=place), arguments)
    except KeyboardInterrupt as interrupt:
        # An interrupt inside an `exec`, as dataclasses run, makes Python end by the signal; this undoes it.
        exec("")  # noqa: S102
        return _report(Interrupted("stopped at once", fixes=[str(fix) for fix in interrupt.args]), arguments)
    except Exception as error:
        return _report(unexpected(error, debug=arguments.debug), arguments)
    if outcome is not None:
        from trainer.run_folder import finite

        _say(json.dumps(finite(outcome.value), ensure_ascii=False) if arguments.json else outcome.text)
        exit_code: int = outcome.exit_code
        return exit_code
    return 0


def _say(text: str) -> None:
    """Print to stdout; that `head`, for one, wants no more of it is no error."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        # What is left in the buffer would fail once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: ShardrecError, arguments: argparse.Namespace) -> int:
    if arguments.debug:
        traceback.print_exc()
    if arguments.json:
        _say(json.dumps(error.as_json(), ensure_ascii=False, default=str))
    kind = "shardrec" if type(error) in {ShardrecError, Interrupted} else type(error).__name__
    print(f"{kind}: {error}", file=sys.stderr)  # noqa: T201
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
