"""Config section `metrics`, and what each metric's name means to those who compare by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trainer.config.base import Section
from trainer.config.data import DataConfig
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Metric:
    """What there is to know of a metric besides its formula.

    Attributes:
        title: as reports write it.
        better: `high`, `low`, or `one` where 1 is best and neither side is better.
        grouped: whether it is computed inside groups of rows.
        at_k: whether it is of the first K places of a list, and named `ndcg@10`.
        shown: whether it is computed where nothing is chosen.
        recommended: whether it is of the lists of best items of user rows, whatever their targets are.
    """

    title: str
    better: Literal["high", "low", "one"]
    grouped: bool = False
    at_k: bool = False
    shown: bool = True
    recommended: bool = False


METRICS: dict[str, Metric] = {
    "auc": Metric("AUC", "high"),
    "ne": Metric("NE", "low"),
    "log_loss": Metric("Log loss", "low"),
    "calibration": Metric("Calibration", "one"),
    "accuracy": Metric("Accuracy", "high"),
    "pr_auc": Metric("PR-AUC", "high"),
    "ece": Metric("ECE", "low"),
    "rmse": Metric("RMSE", "low", shown=False),
    "mae": Metric("MAE", "low", shown=False),
    "r2": Metric("R2", "high", shown=False),
    "gauc": Metric("GAUC", "high", grouped=True),
    "hr": Metric("HR", "high", grouped=True, at_k=True),
    "recall": Metric("Recall", "high", grouped=True, at_k=True),
    "capped_recall": Metric("Capped recall", "high", grouped=True, at_k=True, shown=False),
    "precision": Metric("Precision", "high", grouped=True, at_k=True),
    "ndcg": Metric("NDCG", "high", grouped=True, at_k=True),
    "mrr": Metric("MRR", "high", grouped=True, at_k=True),
    "map": Metric("MAP", "high", grouped=True, at_k=True),
    "coverage": Metric("Coverage", "high", shown=False, recommended=True),
    "gini": Metric("Gini", "low", shown=False, recommended=True),
    "novelty": Metric("Novelty", "high", shown=False, recommended=True),
    "popularity": Metric("Popularity", "low", shown=False, recommended=True),
    "popular_share": Metric("Popular share", "low", shown=False, recommended=True),
    "popularity_lift": Metric("Popularity lift", "low", shown=False, recommended=True),
    "intra_list_diversity": Metric("Intra-list diversity", "high", shown=False, recommended=True),
    "serendipity": Metric("Serendipity", "high", shown=False, recommended=True),
}
DEFAULT_AT = (5, 10, 20)


def split_name(name: str) -> tuple[str, int | None]:
    """Return a metric's name without its task and K, and the K: `("ndcg", 10)` of `click/ndcg@10`."""
    base, at, k = name.rpartition("/")[2].partition("@")
    return base, int(k) if at and k.isdigit() else None


def metric_of(name: str) -> Metric:
    """Return what there is to know of a metric that a result may hold.

    Raises:
        KeyError: there is no such metric.
    """
    return METRICS[split_name(name)[0]]


def places_of(metrics: Mapping[str, Any]) -> list[int]:
    """Return the K of the metrics of lists in a result, rising."""
    return sorted({k for _, k in map(split_name, metrics) if k is not None})


def by_task(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metrics by task: `click/auc` as `auc` of `click`; under an empty name where there is one."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        task, _, own = name.rpartition("/")
        found.setdefault(task, {})[own] = value
    return {task: own for task, own in found.items() if task} or found


def telling_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the few names that say most of each task: two of all rows, GAUC, and HR and NDCG of one K."""
    return [
        f"{task}/{name}" if task else name
        for task, own in by_task(metrics).items()
        for name in _telling_names(own)
    ]


def _telling_names(metrics: Mapping[str, Any]) -> list[str]:
    places = places_of(metrics)
    k = 10 if 10 in places else max(places, default=0)
    of_rows = [name for name in ("auc", "ne", "rmse", "log_loss", "mae") if name in metrics][:2]
    return of_rows + [name for name in ("gauc", f"hr@{k}", f"ndcg@{k}") if name in metrics]


def _chosen(name: str) -> str:
    """Check the name of a metric that is to be computed."""
    base, _ = split_name(name)
    if base not in METRICS:
        raise _error("there is no such metric", name, METRICS)
    if name != base:
        fix = f"write `{base}`, and `metrics.at: [...]`"
        raise _error("the numbers of places go to `at`", name, fix=fix)
    return name


def _compared(name: str) -> str:
    """Check the name of a metric that evaluations are compared by."""
    base, k = split_name(name)
    comparable = [known for known, metric in METRICS.items() if metric.better != "one"]
    if base not in METRICS:
        raise _error("there is no such metric", base, comparable)
    if base not in comparable:
        raise _error(f"`{base}` is best at 1, so evaluations cannot be compared by it", name, comparable)
    plain = name.rpartition("/")[2]
    if METRICS[base].at_k:
        if (k is None or k < 1) and plain != "mrr":
            what = f"`{base}` is of the first places of a list: say of how many"
            raise _error(what, name, fix=f"write `{base}@10`")
    elif plain != base:
        raise _error(
            f"`{base}` is of all rows, not of the first places of lists", name, fix=f"write `{base}`"
        )
    return name


def _error(what: str, got: str, allowed: Iterable[str] = (), fix: str | None = None) -> PydanticCustomError:
    choices = list(allowed)
    fix = fix or did_you_mean(got, choices)
    told = {"what": what, "got": got, "allowed": choices or None, "fixes": [fix] if fix else []}
    return PydanticCustomError("metric_name", "{what}", told)


def check_metrics(metrics: MetricsConfig, compared: dict[str, str], data: DataConfig) -> None:
    """Check what one section alone cannot know.

    Args:
        metrics: the section.
        compared: metric that evaluations are compared by, by key path.
        data: whether evaluation rows come in lists, and how long these are.

    Raises:
        ConfigError: a metric needs groups or a K that are not there, K is no smaller than the lists, or rows
            of users have no such metric.
    """
    named = [*(("metrics.names", name) for name in metrics.names or ()), *compared.items()]
    if data.user_rows is not None and data.user_rows.evaluates:
        _check_of_users(metrics, named)
        return
    if metrics.candidates is not None:
        raise _only_users("metrics.candidates", metrics.candidates)
    if metrics.item_features is not None:
        raise _only_users("metrics.item_features", metrics.item_features)
    for where, name in named:
        if METRICS[split_name(name)[0]].recommended:
            raise _only_users(where, name)
    negatives = data.negatives
    lists = negatives.evaluation if negatives is not None and metrics.group is None else None
    longest = None if lists is None or lists.per_positive is None else 1 + lists.per_positive
    if longest is not None and metrics.at is not None and max(metrics.at) >= longest:
        raise ConfigError(
            "every positive is among the first K places of a list that is no longer than K",
            where="metrics.at",
            got=metrics.at,
            allowed=f"numbers below {longest}: a list is a positive and its {longest - 1} negatives",
        )
    usual = () if lists is None else tuple(k for k in DEFAULT_AT if longest is None or k < longest)
    at = metrics.at or usual
    for where, name in named:
        base, k = split_name(name)
        if METRICS[base].grouped and lists is None and metrics.group is None:
            raise ConfigError(
                f"`{base}` is computed inside groups of rows, and there are none",
                where=where,
                got=name,
                fixes=["name their column: metrics.group", "add negatives: data.negatives.evaluation"],
            )
        if METRICS[base].at_k and ((not at) if k is None else (k not in at)):
            raise ConfigError(
                f"`{name}` needs its number of places",
                where=where,
                got=f"metrics.at: {list(at)}",
                fixes=[f"metrics.at: {sorted({*at, k or 10})}"]
                if longest is None or (k or 10) < longest
                else [f"use one below {longest}, the candidates of a list"],
            )
        if where != "metrics.names" and metrics.names is not None and base not in metrics.names:
            raise ConfigError(
                "evaluations are compared by a metric that they do not compute",
                where=where,
                got=name,
                allowed=metrics.names,
                fixes=[f"add `{base}` to metrics.names"],
            )


def usual_at(ranked: int | None) -> list[int]:
    """Return the K of a config that names none, for rankings of so many items; None where that is open."""
    return [k for k in DEFAULT_AT if ranked is None or k < ranked]


def all_found(where: str, name: str, ranked: int, at: Sequence[int], of_what: str) -> ConfigError:
    """Return the error of comparing by a K at which every target is found.

    Args:
        where: key path.
        name: the metric with its K.
        ranked: items of a ranking.
        at: the K that are computed.
        of_what: what the items of a ranking are.
    """
    k = max(at, default=ranked - 1)
    near = f"{where}: {split_name(name)[0]}@{k}"
    return ConfigError(
        "every target is among the first K items where no more than K are ranked",
        where=where,
        got=name,
        allowed=f"K below {ranked:,}, {of_what}; of metrics.at: {list(at)}",
        fixes=[near if at else f"{near}, and metrics.at: [{k}]"] if k else [],
    )


def _check_of_users(metrics: MetricsConfig, named: Sequence[tuple[str, str]]) -> None:
    of_lists = [name for name, metric in METRICS.items() if metric.at_k or metric.recommended]
    ranked = None if metrics.candidates is None else 1 + metrics.candidates
    at = metrics.at or usual_at(ranked)
    near = f"ndcg@{max(at)}" if at else "mrr"
    for where, name in named:
        base, k = split_name(name)
        if base not in of_lists:
            raise ConfigError(
                "the rows are lists of users, whose targets are ranked: they have no label to predict",
                where=where,
                got=name,
                allowed=of_lists,
                fixes=[f"{where}: {'[ndcg]' if where == 'metrics.names' else near}"],
            )
        if k is not None and k not in at and ranked is not None and k >= ranked:
            raise all_found(where, name, ranked, at, "a target and its metrics.candidates")
        if k is not None and k not in at:
            raise ConfigError(
                f"`{name}` needs its number of places",
                where=where,
                got=f"metrics.at: {list(at)}",
                fixes=[f"metrics.at: {sorted({*at, k})}"],
            )


def _only_users(where: str, got: object) -> ConfigError:
    return ConfigError(
        "this is of rows of users, whose targets are ranked among items",
        where=where,
        got=got,
        fixes=["data.user_rows", "leave it out"],
    )


ChosenMetric = Annotated[str, AfterValidator(_chosen)]
"""Name of a metric without K."""
ComparedMetric = Annotated[str, AfterValidator(_compared)]
"""Name of a metric that can be better or worse, with its K."""


class MetricsConfig(Section):
    """What evaluations compute (see docs/metrics.md)."""

    names: list[ChosenMetric] | None = Field(default=None, min_length=1)
    """Of `auc`, `pr_auc`, `log_loss`, `ne`, `calibration`, `ece`, `accuracy`, `rmse`, `mae`, and inside
    groups `gauc`, `hr`, `recall`, `capped_recall`, `precision`, `ndcg`, `mrr`, `map`; of the lists of best
    items of user rows `coverage`, `gini`, `novelty`, `popularity`, `popular_share`, `popularity_lift`,
    `intra_list_diversity`, `serendipity`. Default: all that the rows allow but `rmse`, `mae`,
    `capped_recall` and those of lists of best items."""
    candidates: int | None = Field(default=None, ge=1)
    """Of rows of users: rank each target among so many different items instead of all, drawn once and for all
    from those that the row does not hold, or with `data.user_rows.drop_seen: false` from all but its targets.
    A row that leaves fewer has all of them."""
    item_features: list[str] | None = Field(default=None, min_length=1)
    """Features of `data.catalogue` by which `intra_list_diversity` tells items apart. Default: all of them;
    without a catalogue the model's own vectors of items."""
    group: str | None = None
    """Kept raw column whose values group the rows for `gauc`, and make the candidate lists of `hr` and the
    others where `at` is set. Default: a positive and its negatives, where `data.negatives` adds them to the
    split."""
    at: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    """The K of `hr@K` and the others. Default: those of 5, 10 and 20 that are below the longest list, for
    lists of positives and their negatives; none for groups of another column."""
    calibration_bins: int = Field(default=15, ge=1)
    """Intervals of equal width that `ece` cuts probabilities into."""
    confidence: float | None = Field(default=None, gt=0, lt=1)
    """Level of the intervals that `evaluate` gives, like 0.95; `--confidence` wins. Training has none, nor
    have `coverage` and `gini`."""
    resamples: int = Field(default=200, ge=20)
    """Of the bootstrap that makes the intervals: groups are drawn where there are any, else rows."""
