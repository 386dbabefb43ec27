"""The verb that makes synthetic rows."""

from __future__ import annotations

import argparse
import types
import typing
from argparse import ArgumentParser, Namespace
from typing import Any

from jobs.commands.base import Command, Outcome
from jobs.synthesis.shape import Shape


def _synth_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, help="folder to make; earlier synthetic data there is replaced"
    )
    for name, field in Shape.model_fields.items():
        kind, choices = _value(field.annotation)
        default = "" if field.is_required() or field.default is None else f" (default {field.default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=choices,
            required=field.is_required(),
            default=argparse.SUPPRESS,
            help=f"{field.description}{default}".replace("%", "%%"),
        )
    parser.add_argument("--master", help="Spark master URL (default: the active session, else local[*])")


def _value(annotation: Any) -> tuple[type, list[str] | None]:
    """Return the type that the command line reads a field as, and its choices where it has some."""
    if isinstance(annotation, types.UnionType):
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is typing.Literal:
        return str, list(typing.get_args(annotation))
    return annotation, None


def _synth(arguments: Namespace) -> Outcome:
    from jobs.attended import PHASES, phases_on_stderr
    from jobs.session import spark_session
    from jobs.synthesis.pipeline import synthesize

    options = {name: value for name, value in vars(arguments).items() if name in Shape.model_fields}
    shape = Shape.of(**options)
    with phases_on_stderr():
        PHASES.info("starting Spark")
        spark = spark_session("shardrec synth", master=arguments.master)
        made = synthesize(arguments.out, shape, spark=spark)
    return Outcome(made.text(), made.as_json())


COMMANDS = (Command("synth", "make synthetic rows in the Criteo shape", _synth_arguments, _synth),)
