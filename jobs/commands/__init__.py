"""What each verb of the command line takes and does; `jobs.cli` parses and prints."""

from jobs.commands import (
    benchmarks,
    machines,
    overview,
    planning,
    preparation,
    remapping,
    results,
    synthesis,
    training,
)
from jobs.commands.base import Command, Outcome, cluster_of, load_config

# In the order of --help: the way that data takes.
_ORDER = (
    "quickstart",
    "synth",
    "prepare",
    "copy",
    "plan",
    "train",
    "remap",
    "evaluate",
    "baseline",
    "index",
    "recommend",
    "mine",
    "report",
    "bench",
    "models",
    "config",
    "pack",
    "doctor",
)
_MODULES = (overview, synthesis, preparation, planning, training, remapping, results, benchmarks, machines)
_BY_NAME = {command.name: command for module in _MODULES for command in module.COMMANDS}
COMMANDS = tuple(_BY_NAME[name] for name in _ORDER)

__all__ = ["COMMANDS", "Command", "Outcome", "cluster_of", "load_config"]
