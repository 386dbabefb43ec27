"""Whether another data set has the features that a run was trained with."""

from __future__ import annotations

import pytest

from jobs.row_origins import check_features
from trainer.errors import SpecMismatchError
from trainer.schema import NUMBERS, Feature, FeatureSpec, FittedOp


def spec_of(**params: object) -> FeatureSpec:
    lists = FittedOp(name=NUMBERS, params=params)
    feature = Feature(name="about", kind="dense", column="about", ops=(lists,))
    return FeatureSpec(features=(feature,), label=FittedOp(name="label", params={"column": "label"}))


def test_lists_of_another_length_are_other_features_and_another_delimiter_is_none() -> None:
    old = spec_of(dim=4, delimiter=None)
    assert check_features(old, spec_of(dim=4, delimiter=";"), "data") == []
    with pytest.raises(SpecMismatchError, match="feature 'about': dim 4 != 5"):
        check_features(old, spec_of(dim=5, delimiter=None), "data")
