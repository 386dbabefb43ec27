"""The resolved config and its hash, and where a wrong key came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config import RunConfig
from trainer.errors import ConfigError


def config_of(*ops: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "x",
            "data": {"label": {"column": "y"}},
            "features": {"dense": [{"columns": "I1", "ops": list(ops)}]},
            "model": {"name": "dlrm"},
        }
    )


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("log1p", "log1p"),
        ({"log1p": None}, "log1p"),
        ({"vocabulary": {}}, "vocabulary"),
        ({"fill": 0}, {"fill": 0}),
        ({"fill": False}, {"fill": False}),
        ({"fill": {"value": 0}}, {"fill": {"value": 0}}),
        ({"clip": {"min": 0, "max": None}}, {"clip": {"min": 0, "max": None}}),
        ({"name": "fill", "params": {"value": 0}}, {"fill": {"value": 0}}),
        ({"name": "x", "value": {"a": 1}}, {"name": "x", "params": {}, "value": {"a": 1}}),
        (
            {"name": "x", "params": {"b": 1}, "value": 2},
            {"name": "x", "params": {"b": 1}, "value": 2},
        ),
    ],
)
def test_ops_are_shown_in_their_short_form_and_load_the_same(written: Any, resolved: Any) -> None:
    run = config_of(written)
    assert run.as_dict()["features"]["dense"][0]["ops"] == [resolved]
    assert RunConfig.from_dict(run.as_dict()) == run
    assert RunConfig.from_dict(run.as_dict()).preparation() == run.preparation()


def test_whole_numbers_of_ops_hash_the_same_with_and_without_a_fraction() -> None:
    assert config_of({"fill": 0}).preparation_hash() == config_of({"fill": 0.0}).preparation_hash()
    assert config_of({"fill": 0}).preparation_hash() != config_of({"fill": 0.5}).preparation_hash()
    assert config_of({"fill": 1}).preparation_hash() != config_of({"fill": True}).preparation_hash()
    clips = [config_of({"clip": {"min": low}}).preparation_hash() for low in (1, 1.0, 2)]
    assert clips[0] == clips[1] != clips[2]


def test_configs_without_lists_of_numbers_fit_data_sets_made_before_there_were_any() -> None:
    features = {
        "dense": [{"columns": "a", "ops": [{"fill": 0}]}],
        "sparse": [{"columns": "b", "ops": "vocabulary"}],
    }
    values = {
        "name": "x",
        "data": {"label": {"column": "y"}},
        "features": features,
        "model": {"name": "dlrm"},
    }
    assert RunConfig.from_dict(values).preparation_hash() == "2a8c6355f6e560e9"
    features["dense"][0] |= {"dim": 3}
    assert RunConfig.from_dict(values).preparation_hash() != "2a8c6355f6e560e9"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(config_of("log1p").to_yaml(), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["trian.x=1"], "--set trian.x=1: trian"),
        (["train.max_step=3"], "--set train.max_step=3: train.max_step"),
        (["train.epochs=x", "seed=2"], "--set train.epochs=x: train.epochs"),
        (["train.epochs=2", "train.epochs=x"], "--set train.epochs=x: train.epochs"),
        (["data.weights_by={}"], "--set data.weights_by={}: data.weights_by.column"),
        (["features.dense.0.colums=I2"], "--set features.dense.0.colums=I2: features.dense.0.colums"),
    ],
)
def test_a_wrong_override_is_named(config_file: Path, overrides: list[str], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(config_file, overrides)
    assert caught.value.where == where
    with pytest.raises(ConfigError) as caught:
        config_of("log1p").override(*overrides)
    assert caught.value.where == where


def test_a_wrong_key_of_the_file_stays_the_files(config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + "trian: {y: 1}\n")
    for overrides in ([], ["seed=2"], ["train.epochs=2"], ["trian.x=1"]):
        with pytest.raises(ConfigError) as caught:
            RunConfig.load(config_file, overrides)
        assert caught.value.where == f"{config_file}: trian"
