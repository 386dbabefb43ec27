"""All checks in order, and the verb without the packages that may be missing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from jobs.diagnosis.findings import Finding, text_of, value_of
from jobs.diagnosis.machine import machine_findings
from jobs.diagnosis.packages import installed, package_findings, python_findings
from jobs.diagnosis.trials import trial_findings


def examine(*, tries: bool = True) -> list[Finding]:
    """Return what this machine has and what is wrong with it.

    Args:
        tries: whether to try torch, the GPU, Spark and two ranks, each in processes of their own: about 20
            seconds.
    """
    versions = installed()
    found = [*python_findings(sys.version_info[:2], sys.executable), *package_findings(versions)]
    found += machine_findings(os.environ)
    if tries:
        found += trial_findings(versions, visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take what the verb takes."""
    parser.add_argument(
        "--quick", action="store_true", help="look only; try neither torch nor Spark nor two ranks"
    )


def main(given: Sequence[str]) -> int:
    """Run the verb where the command line itself cannot be imported."""
    parser = argparse.ArgumentParser(prog="shardrec doctor")
    arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(given)
    found = examine(tries=not asked.quick)
    print(json.dumps(value_of(found)) if asked.json else text_of(found))  # noqa: T201
    return int(value_of(found)["faults"] > 0)
