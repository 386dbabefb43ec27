"""Labels of several tasks and ratings in the config: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import RunConfig
from trainer.errors import ConfigError

CLICK, LIKE = {"column": "clicked"}, {"column": "liked"}
STARS = {"column": "stars", "kind": "rating"}


def load(data: dict[str, Any], **others: Any) -> RunConfig:
    return RunConfig.from_dict(
        {"name": "x", "data": data, "features": {}, "model": {"name": "mmoe"}, **others}
    )


def test_tasks_keep_their_order_through_yaml_and_overrides() -> None:
    run = load({"labels": {"like": LIKE, "click": CLICK}})
    assert [task.name for task in run.data.tasks] == ["like", "click"]
    assert run.data.first_task.key == "data.labels.like"
    again = RunConfig.from_dict(run.as_dict())
    assert again == run
    assert again.override("data.labels.click.positive_at_least=2").data.tasks[1].label.positive_at_least == 2
    swapped = load({"labels": {"click": CLICK, "like": LIKE}})
    assert swapped.preparation_hash() != run.preparation_hash()
    alone = load({"label": CLICK})
    assert [(task.name, task.key) for task in alone.data.tasks] == [("label", "data.label")]


def test_a_binary_label_alone_prepares_what_it_did_before_there_were_tasks() -> None:
    kept = load({"label": CLICK}).preparation()["data"]
    assert "labels" not in kept
    assert "kind" not in kept["label"]
    assert load({"label": STARS}).preparation()["data"]["label"]["kind"] == "rating"


@pytest.mark.parametrize(
    ("data", "others", "where", "said"),
    [
        ({}, {}, "data.label", "a required key is missing"),
        ({"label": CLICK, "labels": {"like": LIKE}}, {}, "data", "not both"),
        ({"labels": {"click": CLICK, "Click": LIKE}}, {}, "data", "differ by more than case"),
        ({"labels": {"a/b": CLICK}}, {}, "data.labels", "pattern"),
        ({"labels": {"all": {"implicit": True}}}, {}, "data.labels.all", "for a label alone"),
        ({"labels": {"a": {"where": "x > 1", "missing": "skip"}}}, {}, "data.labels.a", "needs `column`"),
        ({"label": {**CLICK, "missing": "skip"}}, {}, "data.label.missing", "unknown key"),
        ({"label": {**STARS, "positive_at_least": 4}}, {}, "data.label", "would make it 0 or 1"),
        ({"label": {"where": "x > 1", "kind": "rating"}}, {}, "data.label", "would make it 0 or 1"),
        (
            {"label": STARS, "negatives": {"user": "u", "item": "i", "train": {"per_positive": 4}}},
            {},
            "data.negatives",
            "one binary label",
        ),
        (
            {
                "labels": {"click": CLICK, "like": LIKE},
                "negatives": {"user": "u", "item": "i", "train": {"per_positive": 4}},
            },
            {},
            "data.negatives",
            "2 labels",
        ),
        (
            {"label": STARS, "downsample_negatives": {"keep": 0.5}},
            {},
            "data.downsample",
            "no negatives to drop",
        ),
        (
            {"labels": {"click": CLICK, "like": LIKE}},
            {"train": {"tasks": {"clik": {"weight": 2.0}}}},
            "train.tasks.clik",
            "did you mean `click`?",
        ),
        ({"label": CLICK}, {"train": {"tasks": {"click": {}}}}, "train.tasks.click", "data.labels"),
        (
            {"labels": {"click": CLICK, "like": LIKE}},
            {"train": {"tasks": {"click": {"weight": 0}, "like": {"weight": 0}}}},
            "train.tasks",
            "no task is left to learn",
        ),
        (
            {"labels": {"click": CLICK, "like": LIKE}},
            {"train": {"early_stopping": {"metric": "auc"}}},
            "train.early_stopping.metric",
            "click/auc",
        ),
        (
            {"label": STARS},
            {"train": {"plateau": {"metric": "rmsee"}}},
            "train.plateau.metric",
            "did you mean `rmse`?",
        ),
        ({"label": STARS}, {"train": {"loss": {"focal_gamma": 2.0}}}, "train.loss.focal_gamma", "0 and 1"),
        (
            {"label": CLICK},
            {"train": {"loss": {"huber_delta": 1.0}}},
            "train.loss.huber_delta",
            "for ratings",
        ),
        (
            {"labels": {"click": CLICK}},
            {"recommend": {"user": "u", "item": "i", "task": "stars"}},
            "recommend.task",
            "no task has this name",
        ),
    ],
)
def test_settings_that_the_labels_do_not_have_are_refused(
    data: dict[str, Any], others: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(data, **others)
    assert where in error.value.where
    assert said in str(error.value)


def test_a_metric_of_each_kind_may_stop_a_run() -> None:
    labels = {"click": CLICK, "stars": STARS}
    for metric in ("click/ne", "stars/rmse"):
        load({"labels": labels}, train={"early_stopping": {"metric": metric}})
    load({"label": STARS}, train={"early_stopping": {"metric": "mae"}, "loss": {"huber_delta": 1.0}})
    # Forms of cross-entropy are those of the binary tasks among several.
    load({"labels": labels}, train={"loss": {"focal_gamma": 2.0, "huber_delta": 1.0}})
