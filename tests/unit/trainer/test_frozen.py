"""Dense parameters that a run keeps as they are."""

from __future__ import annotations

import pytest

from tests.unit.trainer.models.examples import example_model, full_inputs
from trainer.assembly import freeze
from trainer.errors import ConfigError


def test_a_glob_freezes_dense_parameters_and_no_table() -> None:
    model = example_model("deep_fm", full_inputs())
    freeze(model, ["deep.*", "field_arch.bias"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        n for n, _ in model.named_parameters() if n.startswith("deep.") or n == "field_arch.bias"
    }


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="left to train"):
        freeze(example_model("dlrm", full_inputs()), ["*"])


def test_a_glob_that_matches_tables_alone_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no dense parameter") as error:
        freeze(example_model("dlrm", full_inputs()), ["sparse_arch.embedding_bag_collection.*"])
    assert "over_arch.*" in str(error.value)
