"""The model over the tables that `plan.tables` declares: shapes alone, to plan without data."""

from __future__ import annotations

from collections.abc import Iterator

from sharding.tables import TableSpec
from trainer.assembly import build_from_inputs
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.inputs import check_globs, table_spec, table_width
from trainer.registry import ModelInputs, model_section
from trainer.tasks import TrainingTask


def declared_task(run: RunConfig) -> tuple[TrainingTask, ModelInputs]:
    """Build the model over the declared tables on the meta device.

    Raises:
        ConfigError: no tables are declared, two of them share a name, a name cannot be counted up, or the
            model or a table section is wrong.
    """
    section = model_section(run.model)
    inputs = section.completed(declared_inputs(run, section.embedding_dim))
    return build_from_inputs(inputs, section, run.seed, "meta"), inputs


def declared_inputs(run: RunConfig, embedding_dim: int) -> ModelInputs:
    """Describe the dense inputs and the declared tables; each feature bears the name of its table.

    Args:
        run: the run config.
        embedding_dim: the model's own default width.

    Raises:
        ConfigError: see `declared_task`.
    """
    tables = tuple(_tables(run, embedding_dim))
    names = [table.name for table in tables]
    if not names:
        raise ConfigError(
            "the config declares no tables", where="plan.tables", fixes=["name a data set: --data"]
        )
    if len(set(names)) < len(names):
        raise _same_name(run)
    check_globs(run, names)
    lists = frozenset(table.name for table in tables if table.pooling == "none")
    return ModelInputs(
        run.plan.num_dense,
        tuple(names),
        tables,
        lists,
        tasks=tuple(task.name for task in run.data.tasks),
        global_batch_size=run.train.global_batch_size,
    )


def _tables(run: RunConfig, embedding_dim: int) -> Iterator[TableSpec]:
    for pattern, declared in run.plan.tables.items():
        rows = declared.rows()
        for name, num_embeddings in zip(_names(pattern, len(rows)), rows, strict=True):
            yield table_spec(
                run,
                name,
                num_embeddings=num_embeddings,
                embedding_dim=table_width(
                    run.table_config(name).embedding_dim or declared.embedding_dim,
                    num_embeddings,
                    embedding_dim,
                ),
                pooling=declared.pooling,
                pooling_factors={name: declared.pooling_factor},
            )


def _same_name(run: RunConfig) -> ConfigError:
    """Return the error for the first name that two entries of `plan.tables` have."""
    first: dict[str, str] = {}
    for pattern, declared in run.plan.tables.items():
        for name in _names(pattern, len(declared.rows())):
            if name in first:
                return ConfigError(
                    "two declared tables share a name",
                    where="plan.tables",
                    got=f"{name}, of `{first[name]}` and of `{pattern}`",
                    fixes=[f"leave {name} out of `{first[name]}`", "give one of them another name"],
                )
            first[name] = pattern
    raise AssertionError("all names differ")


def _names(pattern: str, count: int) -> list[str]:
    if pattern.count("*") == 1:
        return [pattern.replace("*", str(number)) for number in range(1, count + 1)]
    if pattern.count("*") or count > 1:
        raise ConfigError(
            "the name of several tables needs one `*` for their numbers",
            where=f"plan.tables.{pattern}",
            got=f"{count} tables",
            fixes=[f"{pattern.replace('*', '')}_*"],
        )
    return [pattern]
