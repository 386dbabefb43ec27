"""Section `metrics` and the metrics that evaluations are compared by: what is refused, and what is told."""

from __future__ import annotations

import re

import pytest

from tests.support.run_folders import manifest
from tests.support.tiny import CONFIG
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.evaluation_settings import EvaluationSettings, evaluation_settings
from trainer.schema import Manifest

STOP = "train.early_stopping.metric="
LISTS = "data.negatives={user: u, item: i, evaluation: {per_positive: 9}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{STOP}gauk"], r"no such metric[\s\S]*did you mean `gauc`"),
        ([f"{STOP}ndgc@10"], "did you mean `ndcg`"),
        (["train.plateau.metric=acc"], "no such metric"),
        (["metrics.names=[auc, hr@10]"], r"metrics.names.1[\s\S]*write `hr`, and `metrics.at"),
        ([f"{STOP}calibration"], "best at 1"),
        ([f"{STOP}auc@3"], "write `auc`"),
        ([f"{STOP}ndcg", LISTS], "write `ndcg@10`"),
        ([f"{STOP}ndcg@x", LISTS], "write `ndcg@10`"),
        ([f"{STOP}gauc"], r"there are none[\s\S]*metrics.group[\s\S]*data.negatives.evaluation"),
        (["train.plateau.metric=hr@5"], r"there are none[\s\S]*train.plateau.metric"),
        ([f"{STOP}ndcg@10", "metrics.group=u"], r"number of places[\s\S]*metrics.at: \[10\]"),
        ([f"{STOP}ndcg@10", "metrics={group: u, at: [5]}"], r"metrics.at: \[5, 10\]"),
        ([f"{STOP}ndcg@10", LISTS], r"number of places[\s\S]*use one below 10"),
        (["metrics.names=[map]", "metrics.group=u"], r"metrics.at: \[10\]"),
        ([f"{STOP}auc", "metrics.names=[ne]"], "add `auc` to metrics.names"),
        ([LISTS, "metrics.at=[5, 10]"], r"metrics.at[\s\S]*numbers below 10: a list is a positive and its 9"),
        (["metrics.confidence=95"], "less than 1"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_runs(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(CONFIG).override(*overrides)
    assert re.search(message, str(error.value))


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.early_stopping.metric=pr_auc"],
        [f"{STOP}ndcg@5", LISTS],
        [f"{STOP}mrr", "train.plateau.metric=gauc", LISTS],
        ["train.plateau.metric=hr@7", "metrics={group: u, at: [3, 7], names: [hr, log_loss]}"],
    ],
)
def test_any_metric_with_a_direction_may_stop_a_run(overrides: list[str]) -> None:
    RunConfig.from_dict(CONFIG).override(*overrides)


def prepared(*overrides: str) -> Manifest:
    run = RunConfig.from_dict(CONFIG).override(*overrides)
    return manifest().model_copy(update={"preparation": run.preparation()})


def settings(prepared: Manifest, split: str = "test", *overrides: str, **more: float) -> EvaluationSettings:
    return evaluation_settings(RunConfig.from_dict(CONFIG).override(*overrides), prepared, split, **more)


def test_groups_are_the_negatives_of_the_data_set_unless_a_column_is_named() -> None:
    with_lists = prepared(LISTS)
    found = settings(with_lists)
    assert (found.group, found.at, found.at_given) == ("negatives.group", (5, 10, 20), False)
    assert settings(with_lists, "train").group is None  # its rows have no negatives
    assert settings(prepared()).group is None
    found = settings(with_lists, "test", "metrics={group: u, at: [3]}")
    assert (found.group, found.at, found.at_given) == ("u", (3,), True)
    assert settings(with_lists, "test", "metrics.group=u").at == ()
    # A column that nothing needs is not read; a bootstrap draws its groups.
    assert settings(with_lists, "test", "metrics.names=[auc]").group is None
    assert settings(with_lists, "test", "metrics.names=[auc]", confidence=0.9).group == "negatives.group"


def test_what_runs_are_compared_by_is_computed_too() -> None:
    with_lists = prepared(LISTS)
    assert "capped_recall" not in settings(with_lists).names
    assert "capped_recall" in settings(with_lists, "valid", LISTS, f"{STOP}capped_recall@5").names


@pytest.mark.parametrize(("level", "fix"), [(95, "write 0.95"), (0, ""), (1, "")])
def test_a_level_of_confidence_is_a_share(level: float, fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"--confidence[\s\S]*{fix}"):
        settings(prepared(), confidence=level)
