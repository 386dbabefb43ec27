"""What verbs share: the form of a command, common arguments, the config and the cluster they name."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError

if TYPE_CHECKING:
    from jobs.cluster import Cluster, On
    from sharding.hardware import Hardware
    from trainer.config import RunConfig


@dataclass(frozen=True)
class Outcome:
    """A result for stdout: a text for people, a JSON-able value for machines."""

    text: str
    value: Any
    exit_code: int = 0


@dataclass(frozen=True)
class Command:
    """One verb."""

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Outcome | None]


def config_arguments(parser: ArgumentParser) -> None:
    """Take a run config and overrides of its keys."""
    parser.add_argument("config", help="YAML run config, for instance jobs/configs/criteo_dlrm.yaml")
    override_argument(parser)


def override_argument(parser: ArgumentParser) -> None:
    """Take `--set`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a config key, for instance train.max_steps=100",
    )


def launch_arguments(parser: ArgumentParser, ranks: str = "1; spark: one per slot") -> None:
    """Take where ranks run, and how many; `ranks` tells of the default."""
    parser.add_argument(
        "--on",
        choices=["process", "local", "spark", "torchrun"],
        help="where ranks run (default: process for one rank, local for several)",
    )
    parser.add_argument("--ranks", type=positive, help=f"number of ranks (default {ranks})")
    parser.add_argument("--master", help="Spark master URL for --on spark, for instance spark://host:7077")
    parser.add_argument(
        "--gpu",
        help="name of the GPUs that --on spark hands out, in the catalogue or in plan.hardware.gpus, for "
        "instance h100 (default: none)",
    )
    parser.add_argument(
        "--ranks-per-host",
        type=positive,
        metavar="N",
        help="ranks that share a host, for --on spark (default: what the executors' hosts tell)",
    )


def positive(text: str) -> int:
    """Return the whole number above 0 that a text says."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a whole number above 0 is needed, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """Return the whole number that a text says, 0 or more."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"a whole number is needed, not {text!r}")
    return int(text)


def load_config(arguments: Namespace) -> RunConfig:
    """Load and check the config with its overrides: sections, feature ops and the model's own keys."""
    from trainer.config import RunConfig
    from trainer.features.ops import check_ops
    from trainer.registry import model_section

    run = RunConfig.load(arguments.config, arguments.overrides)
    check_ops(run)
    model_section(run.model)
    return run


def cluster_of(arguments: Namespace, run: RunConfig | None = None) -> Cluster:
    """Return the cluster that `--on`, `--ranks` and the options of Spark name.

    Args:
        arguments: of the command line.
        run: config whose `plan.hardware` may have the GPU of `--gpu`.
    """
    from jobs.cluster import Cluster
    from jobs.launch import torchrun_rank, torchrun_world_size

    ranks = arguments.ranks
    on: On = arguments.on or ("process" if (ranks or 1) == 1 else "local")
    if on == "spark":
        from jobs.session import spark_session

        gpu = None if arguments.gpu is None else _gpu_of(arguments.gpu, run)
        session = spark_session("shardrec", master=arguments.master)
        _say_unused_gpus(session, arguments.gpu)
        return Cluster.from_spark(session, ranks, gpu, arguments.ranks_per_host)
    for_spark = {
        "--master": arguments.master,
        "--gpu": arguments.gpu,
        "--ranks-per-host": arguments.ranks_per_host,
    }
    for option in [name for name, value in for_spark.items() if value]:
        raise UserError(f"{option} belongs to --on spark", where=f"--on {on}", fixes=["add --on spark"])
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


def run_of(arguments: Namespace) -> RunConfig | None:
    """Return the config of the run folder, where its hardware is needed to know what `--gpu` names."""
    from trainer.run_folder import RunFolder

    return None if arguments.gpu is None else RunFolder(Path(arguments.run_folder)).config()


def _gpu_of(name: str, run: RunConfig | None) -> Hardware:
    from jobs.hardware import gpu_of
    from trainer.config import HardwareConfig

    return gpu_of(name, HardwareConfig() if run is None else run.plan.hardware)


def _say_unused_gpus(session: Any, gpu: str | None) -> None:
    """Tell a person that the GPUs of Spark's tasks stay idle."""
    amount = session.conf.get("spark.task.resource.gpu.amount", "0")
    if gpu is None and float(amount) > 0:
        print(  # noqa: T201
            f"Spark gives each task {amount} GPU, but ranks compute on the CPU: name it, --gpu h100",
            file=sys.stderr,
        )


def number_text(value: Any) -> str:
    """Return a number as people read it."""
    return f"{value:.5f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def nothing(_: ArgumentParser) -> None:
    """Take no arguments of its own."""
