"""What notebooks need besides the verbs: settings from widgets, and where ranks run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from trainer.config import RunConfig

_VARIABLE = "SHARDREC_"
_CONFIGS = Path(__file__).parent / "configs"


def settings(namespace: Mapping[str, Any], **defaults: str) -> dict[str, str]:
    """Return the settings of a notebook: its widgets on Databricks, elsewhere the defaults.

    Widgets of these names and defaults are made where they are missing; a job's parameters are widgets too.
    Where there are none, an environment variable `SHARDREC_<NAME>` wins over the default.

    Args:
        namespace: `globals()` of the notebook, which holds `dbutils` on Databricks.
        defaults: by name.
    """
    dbutils = namespace.get("dbutils")
    if dbutils is None:
        return {name: os.environ.get(_VARIABLE + name.upper(), text) for name, text in defaults.items()}
    found = {}
    for name, text in defaults.items():
        dbutils.widgets.text(name, text)  # leaves a widget that is there, with its value
        found[name] = str(dbutils.widgets.get(name))
    return found


def config_of(given: Mapping[str, str]) -> RunConfig:
    """Return the run config of a notebook.

    Args:
        given: its settings: `config`, a path or the name of a config that is installed with the package;
            `overrides`, keys like `train.epochs=3` with white space between them; where there are such,
            `experiment` and `registered_model`, for MLflow.

    Raises:
        ConfigError: there is no such config, or a key or value is wrong.
    """
    from trainer.config import RunConfig

    name = given["config"]
    own = _CONFIGS / f"{name}.yaml"
    logged = [f"mlflow.{key}={given[key]}" for key in ("experiment", "registered_model") if given.get(key)]
    return RunConfig.load(own if own.exists() else name, [*given["overrides"].split(), *logged])


def ranks_of(namespace: Mapping[str, Any], *, on: str, ranks: str, gpu: str = "") -> Cluster:
    """Return where a notebook's ranks run.

    Args:
        namespace: `globals()` of the notebook, which holds `spark` on Databricks.
        on: `process`, `local` (the driver's host) or `spark` (the executors).
        ranks: how many; empty for one, on executors for one per slot.
        gpu: name of the executors' GPUs in the catalogue; empty for ranks on CPU.

    Raises:
        UserError: `on` or `ranks` is none of these, or the executors cannot take the ranks.
    """
    from jobs.cluster import Cluster
    from jobs.session import spark_session

    if ranks and not (ranks.isdecimal() and int(ranks) > 0):
        raise UserError(
            "a whole number of ranks is needed", where="ranks", got=ranks, allowed="1, 2, ... or empty"
        )
    count = int(ranks) if ranks else None
    if on == "process":
        if count not in (None, 1):
            raise UserError(
                "one process is one rank", where="ranks", got=ranks, fixes=["on: local", "ranks: 1"]
            )
        return Cluster.local(1, on="process")
    if on == "local":
        return Cluster.local(count or 1, on="local")
    if on != "spark":
        raise UserError("no such place for ranks", where="on", got=on, allowed=["process", "local", "spark"])
    spark = namespace.get("spark") or spark_session("shardrec notebook")
    return Cluster.from_spark(spark, count, gpu or None)


def show(namespace: Mapping[str, Any], frame: Any, rows: int = 20) -> None:
    """Show a DataFrame: as Databricks' table where there is one, else as text."""
    display = namespace.get("display") if namespace.get("dbutils") is not None else None
    if display is not None:
        display(frame)
    else:
        frame.show(rows, truncate=False)
