"""Random chains of ops on random columns give what plain Python says, before any of them makes ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings

from tests.support.plain_fit import before_ids
from tests.support.plain_ops import IDS, tokens_of
from tests.support.random_tables import DrawnFeature, DrawnTable, as_read, tables
from tests.unit.trainer.features.plain import plain
from trainer.features import chains
from trainer.features.ops import entries
from trainer.schema import Feature, FittedOp


@settings(max_examples=100, deadline=None, derandomize=True)
@given(table=tables())
def test_random_chains_give_what_plain_python_says(table: DrawnTable) -> None:
    train = [row % 3 != 0 for row in table.columns["row"]]
    for feature in table.features:
        values, fitted = before_ids(as_read(table, feature.column), train, feature.ops, feature.kind)
        ids = [op for op in feature.ops if op[0] in IDS]
        ops = tuple(FittedOp(name=name, params=dict(params)) for name, params in [*fitted, *ids])
        check(table, feature, ops, values)


def check(table: DrawnTable, drawn: DrawnFeature, ops: tuple[FittedOp, ...], values: list[object]) -> None:
    """Compare the values of a feature with what its chain makes of its raw column."""
    listed = "list" in table.kinds[drawn.column].read_as or any(op.name in ("split", "words") for op in ops)
    feature = Feature(name=drawn.name, kind=drawn.kind, column=drawn.column, ops=ops, is_list=listed)
    columns = {drawn.column: arrow_of(table, drawn.column)}
    if feature.kind == "dense":
        read = chains.read(feature, columns).value
        assert isinstance(read, np.ndarray)
        made = chains.numbers(read, list(entries(feature.ops, "dense")))
        np.testing.assert_allclose(made.astype(np.float32), np.array(values, np.float32), rtol=1e-6, atol=0)
        return
    found = [row if isinstance(row, list) else [row] for row in plain(chains.tokens(feature, columns))]
    assert found == [tokens_of(value) for value in values], drawn


def arrow_of(table: DrawnTable, column: str) -> pa.Array:
    """Return a raw column as a task gets it."""
    if table.source == "csv":
        return pa.array(as_read(table, column), pa.string())
    return pa.array(table.columns[column], table.kinds[column].arrow)
