"""From the raw ids of a file of vectors to the rows of a table, and tables that cannot start from vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import RunConfig
from tests.support.datasets import write_dataset
from tests.support.tiny import CONFIG
from tests.unit.trainer.features.test_row_encoder import VOCABULARY, feature, op, write_vocabulary
from trainer.errors import ConfigError, DataError
from trainer.pretrained import TableIds, pretrained_tables
from trainer.schema import Feature, Manifest

KNOWN = op("vocabulary", **VOCABULARY)


def rows_of(folder: Path, made: Feature, ids: list[Any], num_embeddings: int = 1000) -> list[int]:
    return TableIds.read(made, num_embeddings, folder).rows_of(pa.array(ids)).tolist()


def test_raw_ids_pass_the_ops_and_the_vocabulary(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["b", "a", "7"], first=5)
    many = op("vocabulary", **{**VOCABULARY, "oov_buckets": 4})
    made = feature("v", op("lower"), many)
    # Ids beside the vocabulary have rows too, which they share.
    assert rows_of(tmp_path, made, ["A", "x", "B", "b", ""]) == [6, -1, 5, 5, -1]
    assert rows_of(tmp_path, made, [7, 8]) == [7, -1]
    assert rows_of(tmp_path, made, [7.0]) == [7]


def test_lists_have_the_rows_of_their_ids(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["a", "b c"])
    history = feature("v", KNOWN, kind="sequence", is_list=True)
    assert rows_of(tmp_path, history, ["b c", "a", "x"]) == [3, 2, -1]
    cut = feature("v", op("split", delimiter="|"), KNOWN, is_list=True)
    assert rows_of(tmp_path, cut, ["b c", "", "a"]) == [3, -1, 2]
    with pytest.raises(DataError, match="several ids of one") as error:
        rows_of(tmp_path, cut, ["a", "a|b c"])
    assert error.value.got == "a|b c"


def test_without_a_vocabulary_the_ids_are_the_rows(tmp_path: Path) -> None:
    made = feature("v")
    # 0 is padding.
    assert rows_of(tmp_path, made, [3, 0, 9, 10, -1], num_embeddings=10) == [3, -1, 9, -1, -1]
    assert rows_of(tmp_path, made, ["3", "x", "9"], num_embeddings=10) == [3, -1, 9]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_dataset(tmp_path / "data", rows=200, num_sequences=0).manifest


def asking(**more: Any) -> RunConfig:
    settings = {"pretrained": {"path": "v.npy"}, **more}
    return RunConfig.from_dict({**CONFIG, "tables": {"s0": settings}})


def with_ops(manifest: Manifest, *ops: Any) -> Manifest:
    features = tuple(
        f.model_copy(update={"ops": ops}) if f.name == "s0" else f for f in manifest.spec.features
    )
    return manifest.model_copy(update={"spec": manifest.spec.model_copy(update={"features": features})})


def test_vectors_are_as_wide_as_those_of_the_model(manifest: Manifest) -> None:
    # FM keeps first-order weights behind them.
    for model in ("dlrm", "fm"):
        run = asking().override(f"model.name={model}")
        (table,) = pretrained_tables(run, manifest)
        assert (table.name, table.file.dim, table.ids) == ("s0", 8, 49)
    (table,) = pretrained_tables(asking(), with_ops(manifest, KNOWN))
    assert table.ids == 48
    assert pretrained_tables(RunConfig.from_dict(CONFIG), manifest) == []


@pytest.mark.parametrize(
    ("ops", "settings", "what"),
    [
        ((op("hash", num_buckets=50),), {}, "share a row"),
        ((op("cross", columns=["a", "b"]), KNOWN), {}, "cross"),
        ((), {"ids": {"num_embeddings": 50}}, "come and go"),
    ],
    ids=["hash", "cross", "ids"],
)
def test_tables_whose_rows_belong_to_no_one_id_are_refused(
    manifest: Manifest, ops: tuple[Any, ...], settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what) as error:
        pretrained_tables(asking(**settings), with_ops(manifest, *ops))
    assert error.value.where == "tables.s0.pretrained"


def test_a_model_without_vectors_in_a_table_is_refused(manifest: Manifest) -> None:
    model = "{name: wide_deep, embedding_dim: 4, wide_features: [s0], deep_features: [s1, m0]}"
    run = asking().override(f"model={model}")
    with pytest.raises(ConfigError, match="no vectors"):
        pretrained_tables(run, manifest)
