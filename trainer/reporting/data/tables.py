"""The data report's tables, one row per feature, and its bars of drift and of AUC alone."""

from __future__ import annotations

import numpy as np

from trainer.reporting import formats
from trainer.reporting.data.cards import Bar
from trainer.reporting.data.counted import Counted
from trainer.reporting.data.dense import QUANTILES
from trainer.reporting.data.drift import PSI_SHIFTED
from trainer.reporting.data.leakage import LEAK_AUC, SUSPICIOUS_AUC
from trainer.reporting.data.profile import DataProfile
from trainer.reporting.tables import Table, limited, make_table

MAX_FEATURES = 2000
MAX_BARS = 12
# The PSI that fills a bar.
_FULL_PSI = 0.5


def comparison_table(data: DataProfile) -> Table:
    """Return drift and AUC alone of every feature, in model order."""
    others = list(data.looked_at)[1:]
    rows = []
    for profile in data.profiles:
        found = [profile.drift.get(split) for split in others]
        rows.append(
            (
                profile.feature.name,
                profile.feature.kind,
                formats.percent(data.missing(profile)),
                *(formats.decimal(drift and drift.psi, 3) for drift in found),
                *(formats.decimal(drift and drift.ks, 3) for drift in found),
                formats.decimal(profile.auc, 3),
            )
        )
    shown, note = limited(rows, MAX_FEATURES, "features")
    titles = (
        "Feature",
        "Kind",
        "Missing",
        *(f"PSI {split}" for split in others),
        *(f"KS {split}" for split in others),
        "AUC alone",
    )
    return make_table(
        "Every feature across splits and against the label", titles, shown, text=(0, 1), note=note
    )


def dense_table(data: DataProfile) -> Table:
    """Return the quantiles of the dense features."""
    rows = []
    for profile in data.dense:
        seen = data.statistics(profile.feature)
        scale = seen.std or 0.0
        found = profile.quantiles or (None,) * len(QUANTILES)
        numbers = (formats.general(value, scale) for value in (seen.mean, seen.std, *found))
        rows.append((profile.feature.name, formats.percent(data.missing(profile)), *numbers))
    shown, note = limited(rows, MAX_FEATURES, "features")
    names = {0.0: "Min", 0.5: "Median", 1.0: "Max"}
    titles = ("Feature", "Missing", "Mean", "Std", *(names.get(q, f"{q:.0%}") for q in QUANTILES))
    return make_table("Dense features in numbers", titles, shown, note=note)


def id_table(data: DataProfile) -> Table:
    """Return cardinality, gaps and list lengths of the id features."""
    rows = []
    for profile in data.ids:
        feature, seen = profile.feature, data.statistics(profile.feature)
        found = [profile.splits[name].out_of_vocabulary for name in data.looked_at]
        rows.append(
            (
                feature.name,
                feature.table or formats.DASH,
                formats.count(feature.num_embeddings),
                formats.count(seen.ids),
                formats.count(profile.distinct),
                formats.percent(data.missing(profile)),
                *(formats.percent(share) for share in found),
                formats.percent(profile.top_share),
                *_lengths(profile.lengths),
            )
        )
    shown, note = limited(rows, MAX_FEATURES, "features")
    titles = (
        *("Feature", "Table", "Rows of table", "Ids", "Ids seen", "Missing"),
        *(f"OOV {name}" for name in data.looked_at),
        *("Top 1\u202f%", "Mean length", "Median", "99\u202f%", "Longest"),
    )
    about = (
        "Ids and missing values as prepare counted them, over all training rows; the rest over the rows "
        "looked at. Top 1\u202f%: share of all ids that the most frequent hundredth of them has."
    )
    return make_table("Id features in numbers", titles, shown, text=(0, 1), note=f"{about} {note}".strip())


def auc_bars(data: DataProfile) -> tuple[Bar, ...]:
    """Return the features that tell most of the label alone; a full bar is an AUC of 1."""
    found = [(p.auc, p.feature.name) for p in data.profiles if p.auc is not None]
    return tuple(
        Bar(name, formats.decimal(auc, 3), max(0.0, 200 * (auc - 0.5)), _auc_level(auc))
        for auc, name in sorted(found, key=lambda pair: -pair[0])[:MAX_BARS]
    )


def drift_bars(data: DataProfile) -> tuple[Bar, ...]:
    """Return the features that drift most; a full bar is a PSI of 0.5 or more."""
    found = []
    for profile in data.profiles:
        if profile.drift:
            split, worst = max(profile.drift.items(), key=lambda item: item[1].psi)
            level = "high" if worst.large else "medium" if worst.psi >= PSI_SHIFTED else ""
            value = f"{formats.decimal(worst.psi, 3)} {split}"
            found.append(
                (worst.psi, Bar(profile.feature.name, value, min(1.0, worst.psi / _FULL_PSI) * 100, level))
            )
    return tuple(bar for _, bar in sorted(found, key=lambda pair: -pair[0])[:MAX_BARS])


def _auc_level(auc: float) -> str:
    return "high" if auc >= LEAK_AUC else "medium" if auc >= SUSPICIOUS_AUC else ""


def _lengths(lengths: Counted | None) -> tuple[str, ...]:
    if lengths is None or not lengths.total:
        return (formats.DASH,) * 4
    mean = float(np.sum(lengths.values * lengths.counts)) / lengths.total
    found = lengths.quantiles(np.array([0.5, 0.99, 1.0]))
    return (formats.decimal(mean, 2), *(formats.count(float(value)) for value in found))
