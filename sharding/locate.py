"""Where a model keeps its embedding tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from sharding.errors import PlanError
from sharding.tables import TableSpec


def locate_tables(model: nn.Module, tables: Sequence[TableSpec]) -> dict[str, str]:
    """Return the module path of each table's collection, by table name.

    Args:
        model: with unsharded collections.
        tables: that the model should hold.

    Raises:
        PlanError: model and list differ; each difference is named.
    """
    specs = {table.name: table for table in tables}
    paths: dict[str, str] = {}
    problems = []
    for path, config in _configs(model):
        spec = specs.get(config.name)
        if config.name in paths:
            problems.append(f"table {config.name}: in two collections, {paths[config.name]!r} and {path!r}")
        elif spec is None:
            problems.append(f"table {config.name}: in the model, not in the table list")
        else:
            for key in ("num_embeddings", "embedding_dim"):
                a, b = getattr(config, key), getattr(spec, key)
                problems += [f"table {config.name}: {key}: model {a}, table list {b}"] if a != b else []
        paths.setdefault(config.name, path)
    problems += [f"table {name}: in the table list, not in the model" for name in specs if name not in paths]
    if problems:
        raise PlanError(
            "the model's tables are not those of the table list",
            where=type(model).__name__,
            got="\n           ".join(problems),
        )
    return paths


def _configs(module: nn.Module, path: str = "") -> Iterator[tuple[str, BaseEmbeddingConfig]]:
    if isinstance(module, EmbeddingBagCollection):
        yield from ((path, config) for config in module.embedding_bag_configs())
    elif isinstance(module, EmbeddingCollection):
        yield from ((path, config) for config in module.embedding_configs())
    else:
        for name, child in module.named_children():
            yield from _configs(child, f"{path}.{name}" if path else name)
