"""What the guard finds: its codes, how grave each is, its likely causes and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["grave", "note"]
_MOST_NAMED = 5


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        level: `grave` ends the run under `train.guard.action: stop`.
        causes: most likely first.
        fixes: things to do, most likely first.
    """

    level: Level
    causes: tuple[str, ...]
    fixes: tuple[str, ...] = ()


_TOO_FAST = (
    "a learning rate that is too high: tables and layers overshoot, then every row gets the same score",
    "dense features on their raw scale",
)
_LEARN_FIXES = (
    "lower train.dense_optimizer.learning_rate tenfold, or train.embedding_optimizer.learning_rate",
    "set train.schedule.warmup_steps and train.max_gradient_norm: 1.0",
    "look at the data report and the label: does any feature tell about it?",
)

KINDS: dict[str, Kind] = {
    "label_constant": Kind(
        "grave",
        ("a wrong data.label.column or positive_at_least", "a filter or a down-sampling that kept one class"),
        ("check data.label and prepare again",),
    ),
    "label_shift": Kind(
        "note",
        (
            "negatives were dropped from one split before `prepare`, which knows nothing of it",
            "labels of the newest rows are not in yet",
            "another time of the year",
        ),
        (
            "drop negatives with data.downsample_negatives, which predictions are corrected for",
            "move data.split",
        ),
    ),
    "weights_zero": Kind(
        "grave",
        ("a weight column that is empty or filled with 0",),
        ("check the weight that the config names, or leave it out, and prepare again",),
    ),
    "feature_not_finite": Kind(
        "grave",
        ("a log or a division without a guard in the source", "missing values without `fill`"),
        ("put `fill` first and `log1p` after `clip: {min: 0}` in the feature's ops, and prepare again",),
    ),
    "feature_constant": Kind(
        "note",
        ("a column that its source has stopped filling", "`clip` or `fill` swallow every value"),
        ("leave the feature out, or mend its source",),
    ),
    "feature_scale": Kind(
        "note",
        ("counts, prices or times in their raw unit: they drown every other input and make gradients jump",),
        ("add `log1p` or `standardise` to the feature's ops and prepare again",),
    ),
    "feature_one_id": Kind(
        "note",
        ("a column that its source has stopped filling", "a vocabulary of one value"),
        ("leave the feature out, or mend its source",),
    ),
    "feature_missing": Kind(
        "note",
        ("a column that its source has stopped filling", "a join whose keys do not match"),
        ("leave the feature out, or mend its source",),
    ),
    "feature_out_of_vocabulary": Kind(
        "note",
        (
            "min_count is too high, or max_size too low",
            "ids are written in another way than in the vocabulary",
        ),
        ("lower min_count or raise max_size of the feature's `vocabulary`, or use `hash`",),
    ),
    "feature_is_label": Kind(
        "grave",
        ("the feature is the label, is made from it, or is known only after it",),
        ("leave the feature out",),
    ),
    "loss_above_prior": Kind(
        "grave",
        (
            *_TOO_FAST,
            "a learning rate that is too low for this many steps",
            "labels or items that belong to other rows, or features that tell nothing about them",
        ),
        (*_LEARN_FIXES, "or give it more time: train.guard.learning_steps"),
    ),
    "loss_exploding": Kind("grave", _TOO_FAST, _LEARN_FIXES),
    "ne_above_1": Kind(
        "grave",
        (
            "over-fitting, where the training loss is far below",
            "another label share than in training, where calibration is off as well",
            *_TOO_FAST,
        ),
        ("fewer train.epochs, or train.early_stopping", *_LEARN_FIXES),
    ),
    "auc_near_half": Kind(
        "grave",
        (
            *_TOO_FAST,
            "labels that belong to other rows, as after two tables were sorted apart",
            "features of this split that were made in another way than those of training",
        ),
        _LEARN_FIXES,
    ),
    "auc_below_half": Kind(
        "grave",
        ("labels turned round, in this split or in training", "ids of this split that mean other things"),
        ("check data.label: positive_at_least, positive_values", "prepare all splits in one `prepare`"),
    ),
    "auc_near_1": Kind(
        "note",
        (
            "a feature is known only after the label, or made from it",
            "the same rows in training and validation",
        ),
        (
            "look for leaks in the data report: AUC of single features",
            "split by time: data.split.method: time",
        ),
    ),
    "r2_below_0": Kind(
        "grave",
        (
            "over-fitting, where the training loss is far below",
            "another mean rating than in training",
            *_TOO_FAST,
        ),
        ("fewer train.epochs, or train.early_stopping", *_LEARN_FIXES),
    ),
    "ranking_at_chance": Kind(
        "grave",
        (
            "a learning rate that is too low for this many steps, or far too high",
            "lists of this split that were made in another way than those of training",
            "items that are new in this split: no model of ids can find them",
        ),
        (
            "try ten times and a tenth of train.dense_optimizer.learning_rate and "
            "train.embedding_optimizer.learning_rate",
            "prepare all splits in one `prepare`",
            "or give it more time: train.guard.learning_steps",
        ),
    ),
    "calibration_off": Kind(
        "note",
        (
            "negatives were dropped before `prepare`, or from one split only: no correction knows of it",
            "another label share than in training",
        ),
        ("drop negatives with data.downsample_negatives, which predictions are corrected for",),
    ),
    "overfitting": Kind(
        "note",
        (
            "rare ids are learnt by heart: many click models are best after one epoch",
            "tables or layers that are large for this many rows",
        ),
        (
            "train.early_stopping: {metric: ne}, whose best checkpoint is used",
            "fewer train.epochs",
            "weight decay, dropout or a smaller embedding_dim; min_count for rare ids",
        ),
    ),
    "table_dead": Kind(
        "grave",
        (
            "no gradient reaches the table: a dead layer above it, or a model that does not use its features",
            "steps too small for the table's data type; gradients rounded to 0 by train.table_communication",
        ),
        (
            "tables.<name>.learning_rate: 0 says that it is meant to stay",
            "see layer_dead, where it was found too",
            "tables.<name>.data_type: fp32, train.table_communication.backward: bf16",
        ),
    ),
    "table_exploding": Kind(
        "grave",
        ("a learning rate of the tables that is too high",),
        (
            "lower train.embedding_optimizer.learning_rate tenfold, or tables.<name>.learning_rate",
            "set train.embedding_optimizer.weight_decay (GPU)",
        ),
    ),
    "table_collapsed": Kind(
        "grave",
        ("weight decay that pulls every vector to zero", "pre-trained vectors that are all the same"),
        ("lower train.embedding_optimizer.weight_decay", "lower the learning rate of the table"),
    ),
    "layer_dead": Kind(
        "grave",
        ("every ReLU before or behind it gives 0 for every row: a learning rate that is too high",),
        _LEARN_FIXES,
    ),
    "units_dead": Kind(
        "note",
        ("most of its ReLUs give 0 for every row: a learning rate that is too high, or inputs not scaled",),
        (*_LEARN_FIXES[:2], "norm: layer or batch in the model's section, where it has one"),
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: key of `KINDS`.
        step: steps done when it was found.
        what: one sentence with the numbers, without a full stop.
        subjects: features, tables, layers or splits that it is about.
        fixes: with numbers in them, before those of the kind.
    """

    code: str
    step: int
    what: str
    subjects: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `metrics.jsonl`, `result.json` and the report hold."""
        kind = KINDS[self.code]
        return {
            "code": self.code,
            "level": kind.level,
            "step": self.step,
            "what": self.what,
            "subjects": list(self.subjects),
            "causes": list(kind.causes),
            "fixes": [*self.fixes, *kind.fixes],
        }


def listed(parts: Sequence[str]) -> str:
    """Return the first parts of a list in words, and how many more there are."""
    more = len(parts) - _MOST_NAMED
    return ", ".join(parts[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
