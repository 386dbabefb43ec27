"""The installed command: the command line, or what is left of it where a package is missing or broken."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; where it cannot be imported, `shardrec doctor` alone works and says why."""
    try:
        from jobs.cli import main as run
    except ImportError as error:
        if sys.argv[1:2] == ["doctor"]:
            from jobs.diagnosis.examination import main as examine

            return examine(sys.argv[2:])
        print(  # noqa: T201
            f"shardrec: a package is missing or broken: {error}\n  1) shardrec doctor says what to do",
            file=sys.stderr,
        )
        return 1
    return run()
