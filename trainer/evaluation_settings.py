"""What an evaluation computes: the config's `metrics`, with what the data set says about its groups."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import RunConfig
from trainer.config.metrics import DEFAULT_AT, METRICS, all_found, split_name, usual_at
from trainer.errors import ConfigError
from trainer.records import TaskLabel
from trainer.schema import GROUP_COLUMN, KEEP_PREFIX, Manifest

COUNTS = ("rows", "rows_without_targets", "groups", "groups_left_out", "rows_without_group")
"""Names in a result's metrics that are numbers of something, and no measure of quality."""
_BESIDE = (*COUNTS, "base_rate", "mean_label", "mean_prediction")
_OF_RATINGS = ("rmse", "mae", "r2")


@dataclass(frozen=True)
class EvaluationSettings:
    """What to compute of one task.

    Attributes:
        names: metrics, without their K.
        group: kept raw column that groups the rows; None where nothing needs it.
        at: the K of lists; empty where there are none.
        at_given: whether the config names them, so that none may be left out.
        by: kept raw column whose values are the segments.
        bins: of ECE.
        confidence: level of intervals, None for none.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        logit_shift: added to scores: `Manifest.logit_shift`, where training negatives were down-sampled.
        rating: whether scores are predicted numbers and no logits.
        candidates: drawn items that each target of user rows is ranked among; None for all items.
    """

    names: frozenset[str] = frozenset(name for name, metric in METRICS.items() if metric.shown)
    group: str | None = None
    at: tuple[int, ...] = ()
    at_given: bool = False
    by: str | None = None
    bins: int = 15
    confidence: float | None = None
    resamples: int = 200
    seed: int = 1
    logit_shift: float = 0.0
    rating: bool = False
    candidates: int | None = None

    @property
    def of_recommended(self) -> bool:
        """Return whether a metric is of the lists of best items, whatever the targets are."""
        return any(METRICS[name].recommended for name in self.names)

    @property
    def figures(self) -> tuple[str, ...]:
        """Return the names in `ListFigures` of what the metrics of recommended lists need."""
        of_metric = {"popularity_lift": "history_popularity", "serendipity": "serendipity"}
        return tuple(figure for metric, figure in of_metric.items() if metric in self.names)

    @property
    def columns(self) -> int:
        """Return the sets of weights: the rows' own, and one for each resample."""
        return 1 if self.confidence is None else 1 + self.resamples

    @property
    def grouped(self) -> bool:
        """Return whether a metric is computed inside groups."""
        return self.group is not None and any(METRICS[name].grouped for name in self.names)

    def shows(self, name: str) -> bool:
        """Return whether a metric, or another number beside them, was asked for."""
        return name in _BESIDE or split_name(name)[0] in self.names


def evaluation_settings(
    run: RunConfig,
    manifest: Manifest,
    split: str,
    *,
    logit_shift: float = 0.0,
    by: str | None = None,
    confidence: float | None = None,
    task: TaskLabel | None = None,
) -> EvaluationSettings:
    """Return what to compute of a task on a split.

    Args:
        run: the config.
        manifest: of the data set that the split is from.
        split: `train`, `valid` or `test`.
        logit_shift: added to scores.
        by: kept raw column to break metrics down by.
        confidence: level of intervals, if any.
        task: default one of binary labels.

    Raises:
        ConfigError: the level is not between 0 and 1.
    """
    _check_level(confidence)
    metrics, lists = run.metrics, _has_lists(manifest, split)
    rating = task is not None and task.is_rating
    usual_names = [name for name, metric in METRICS.items() if metric.shown]
    if rating:
        usual_names = [*_OF_RATINGS, *(name for name in usual_names if METRICS[name].grouped)]
    chosen = metrics.names or usual_names
    compared = _compared(run).values()
    own = [name for name in compared if task is None or name.rpartition("/")[0] in ("", task.name)]
    names = frozenset([*chosen, *(split_name(name)[0] for name in own)])
    group = metrics.group or (GROUP_COLUMN.removeprefix(KEEP_PREFIX) if lists else None)
    if confidence is None and not any(METRICS[name].grouped for name in names):
        group = None
    usual = DEFAULT_AT if group is not None and metrics.group is None else ()
    return EvaluationSettings(
        names=names,
        group=group,
        at=tuple(sorted(set(metrics.at or usual))),
        at_given=metrics.at is not None,
        by=by,
        bins=metrics.calibration_bins,
        confidence=confidence,
        resamples=metrics.resamples,
        seed=run.seed,
        logit_shift=logit_shift,
        rating=rating,
    )


def target_settings(
    run: RunConfig, items: int, *, by: str | None = None, confidence: float | None = None
) -> EvaluationSettings:
    """Return what to compute of the targets of user rows.

    Args:
        run: the config.
        items: that there are to be ranked.
        by: kept raw column to break metrics down by.
        confidence: level of confidence intervals, if any.

    Raises:
        ConfigError: a K of `metrics.at`, or of what evaluations are compared by, is no smaller than the
            ranking, where every target would be found; a metric is of lists of the first K items, and there
            is no K; or the level of confidence is not between 0 and 1.
    """
    _check_level(confidence)
    metrics, compared = run.metrics, _compared(run)
    ranked = items if metrics.candidates is None else min(items, 1 + metrics.candidates)
    of_what = "the items" if metrics.candidates is None else "a target and its metrics.candidates"
    if metrics.at is not None and max(metrics.at) >= ranked:
        raise ConfigError(
            "every target is among the first K items where no more than K are ranked",
            where="metrics.at",
            got=metrics.at,
            allowed=f"numbers below {ranked:,}, {of_what}",
        )
    at = tuple(sorted({*(metrics.at or usual_at(ranked))}))
    for where, name in compared.items():
        _, k = split_name(name)
        if k is not None and k not in at:
            raise all_found(where, name, ranked, at, of_what)
    for where, name in [*(("metrics.names", name) for name in metrics.names or ()), *compared.items()]:
        if METRICS[split_name(name)[0]].recommended and not at:
            raise ConfigError(
                f"`{name}` is of lists of as many items as the largest K, and there is no K",
                where=where,
                got=name,
                allowed=f"metrics.at: numbers below {ranked:,}, {of_what}",
                fixes=[*([f"metrics.at: [{ranked - 1}]"] if ranked > 1 else []), f"leave `{name}` out"],
            )
    of_lists = [name for name, metric in METRICS.items() if metric.at_k or metric.recommended]
    chosen = metrics.names or [name for name in of_lists if METRICS[name].shown]
    return EvaluationSettings(
        names=frozenset([*chosen, *(split_name(name)[0] for name in compared.values())]),
        at=at,
        at_given=metrics.at is not None,
        by=by,
        confidence=confidence,
        resamples=metrics.resamples,
        seed=run.seed,
        candidates=metrics.candidates,
    )


def _compared(run: RunConfig) -> dict[str, str]:
    """Return the metrics that evaluations are compared by, by key path."""
    sections = {"early_stopping": run.train.early_stopping, "plateau": run.train.plateau}
    return {f"train.{key}.metric": s.metric for key, s in sections.items() if s is not None}


def _has_lists(manifest: Manifest, split: str) -> bool:
    """Return whether the rows of a split are positives with negatives that were added to them."""
    negatives = (manifest.preparation.get("data") or {}).get("negatives") or {}
    return negatives.get("train" if split == "train" else "evaluation") is not None


def _check_level(confidence: float | None) -> None:
    if confidence is not None and not 0 < confidence < 1:
        raise ConfigError(
            "a level of confidence is a share",
            where="--confidence",
            got=confidence,
            allowed="numbers between 0 and 1",
            fixes=[f"write {confidence / 100:g}"] if 1 < confidence < 100 else [],
        )
