"""What to look at first: the findings of the data report and the thresholds behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from trainer.reporting import formats
from trainer.reporting.data.dense import DenseProfile
from trainer.reporting.data.drift import KS_LARGE, PSI_LARGE
from trainer.reporting.data.ids import IdProfile
from trainer.reporting.data.leakage import LEAK_AUC, SUSPICIOUS_AUC
from trainer.reporting.data.profile import DataProfile, Profile
from trainer.schema import UNMATCHED_SHARE

MISSING_SHARE = 0.95
OOV_SHARE = 0.3
# Training OOV above this says that the vocabulary is too small, not that the ids are new.
_TRAIN_OOV_SHARE = 0.15
# Relative difference of label rates, and how many standard errors it must be.
RATE_DIFFERENCE = 0.2
_RATE_ERRORS = 4.0
# Share of a table's rows that are used, below which the table is mostly empty.
USED_SHARE = 0.1

Level = Literal["high", "medium", "note"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding: how grave, its title, and what to do about it."""

    level: Level
    title: str
    advice: str


KINDS = {
    "leak": Kind(
        "high",
        f"Predicts the label alone (AUC {LEAK_AUC} or more)",
        "Most likely a leak: a value that is known only after the label, or made from it. Leave it out, or "
        "make it from earlier events alone.",
    ),
    "one_class": Kind(
        "high",
        "A split with one class of labels",
        "AUC has no meaning there. Check the label's column and threshold, or take more rows.",
    ),
    "constant": Kind(
        "high",
        "One value only",
        "Nothing can be learnt from it. Leave the feature out, or look for the fault in its source.",
    ),
    "all_missing": Kind(
        "high",
        "No value at all",
        "Every training row lacks it. Leave the feature out, or look for the fault in its source.",
    ),
    "suspicious": Kind(
        "medium",
        f"Predicts the label suspiciously well (AUC {SUSPICIOUS_AUC} or more)",
        "Is the value known before the label? Honest single features rarely go this far.",
    ),
    "label_rate": Kind(
        "medium",
        "Label rate differs from training",
        "Metrics of this split compare badly with training: seasons, another down-sampling, late labels?",
    ),
    "drift": Kind(
        "medium",
        f"Other values than in training (PSI {PSI_LARGE} or more, or KS {KS_LARGE} or more)",
        "New ids under a time split, a changed unit, or a source that stopped. See Drift.",
    ),
    "oov": Kind(
        "medium",
        f"Many ids out of vocabulary ({OOV_SHARE:.0%} or more of valid and test)",
        "They share one embedding: lower min_count, raise max_size, or use the op hash. Of vectors they get "
        "zeros: add rows to the source.",
    ),
    "unmatched": Kind(
        "medium",
        f"Side table without a row for many rows ({UNMATCHED_SHARE:.0%} or more)",
        "Their columns of it are missing. A table of another day, or keys that are written in another way?",
    ),
    "duplicate": Kind(
        "medium",
        "The same feature twice",
        "Ids are those of the other under other names, numbers those of the other on another scale. Leave "
        "one of them out.",
    ),
    "mostly_missing": Kind(
        "note",
        f"Nearly always missing ({MISSING_SHARE:.0%} of the training rows or more)",
        "Worth its place only where the few values tell much.",
    ),
    "empty_table": Kind(
        "note",
        f"Table mostly unused (under {USED_SHARE:.0%} of its rows)",
        "Ids are taken as they are, gaps included. The op vocabulary numbers them without gaps.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: key of `KINDS`.
        subject: the features, or the split.
        value: the number that decided, if there is one.
        text: the number with its name, for people.
    """

    kind: str
    subject: tuple[str, ...]
    value: float | None
    text: str

    def line(self) -> str:
        """Return the finding as one line of text."""
        kind = KINDS[self.kind]
        subject = " = ".join(self.subject)
        return f"{kind.level}: {subject}: {kind.title}" + (f": {self.text}" if self.text else "")

    def as_json(self) -> dict[str, Any]:
        """Return the form of `--json`."""
        return {
            "kind": self.kind,
            "level": KINDS[self.kind].level,
            "subject": list(self.subject),
            "value": None if self.value is None else round(self.value, 4),
            "text": self.text,
        }


def findings(data: DataProfile) -> tuple[Finding, ...]:
    """Return what to look at, gravest first; within a kind the largest value first."""
    # A vector is no duplicate of the id that it is looked up by.
    ids = tuple(p for p in data.ids if p.feature.kind != "vector" and p.feature.role == "input")
    found = [*_label(data), *_unmatched(data), *_duplicates(data.dense), *_duplicates(ids)]
    for profile in data.profiles:
        found += _feature(data, profile)
    order = list(KINDS)
    return tuple(sorted(found, key=lambda finding: (order.index(finding.kind), -(finding.value or 0.0))))


def _feature(data: DataProfile, profile: Profile) -> Iterator[Finding]:
    name, missing = (profile.feature.name,), data.missing(profile)
    if isinstance(profile, IdProfile) and profile.feature.role == "target":  # empty in train
        yield from _ids(data, profile)
        return
    if missing >= 1.0:
        yield Finding("all_missing", name, missing, "")
        return
    if is_constant(profile):
        yield Finding("constant", name, None, "")
        return
    if missing >= MISSING_SHARE:
        yield Finding("mostly_missing", name, missing, f"{formats.percent(missing)} missing")
    if profile.auc is not None and profile.auc >= SUSPICIOUS_AUC:
        kind = "leak" if profile.auc >= LEAK_AUC else "suspicious"
        yield Finding(kind, name, profile.auc, f"AUC {formats.decimal(profile.auc, 3)}")
    if data.manifest.spec.target is None:  # rows of users in valid and test list more, or other things
        yield from _drift(profile)
    if isinstance(profile, IdProfile):
        yield from _ids(data, profile)


def is_constant(profile: Profile) -> bool:
    """Return whether the rows looked at hold one value."""
    if isinstance(profile, DenseProfile):
        return profile.distinct <= 1
    whole = next(iter(profile.splits.values()))
    # Missing and out of vocabulary are values too.
    others = (whole.missing > 0) + ((whole.out_of_vocabulary or 0) > 0)
    return profile.lengths is None and profile.distinct + others <= 1


def _drift(profile: Profile) -> Iterator[Finding]:
    large = {split: drift for split, drift in profile.drift.items() if drift.large}
    if not large:
        return
    split, worst = max(large.items(), key=lambda item: (item[1].psi, item[1].ks or 0.0))
    ks = "" if worst.ks is None else f", KS {formats.decimal(worst.ks, 2)}"
    text = f"PSI {formats.decimal(worst.psi, 2)}{ks} in {split}"
    yield Finding("drift", (profile.feature.name,), worst.psi, text)


def _ids(data: DataProfile, profile: IdProfile) -> Iterator[Finding]:
    feature, seen = profile.feature, data.statistics(profile.feature)
    shares = {
        split: ids.out_of_vocabulary
        for split, ids in profile.splits.items()
        if split != data.base and ids.out_of_vocabulary is not None
    }
    if shares and max(shares.values()) >= OOV_SHARE:
        split = max(shares, key=lambda name: shares[name])
        train = seen.train_oov_share
        cause = ", most of them new" if train is not None and train < _TRAIN_OOV_SHARE else ""
        told = "" if train is None else f" (train {formats.percent(train, 0)}{cause})"
        yield Finding(
            "oov", (feature.name,), shares[split], f"OOV {formats.percent(shares[split], 0)} of {split}{told}"
        )
    rows = feature.num_embeddings or 0
    by_number = not feature.vocabulary and not (feature.ops and feature.ops[-1].name == "hash")
    if by_number and seen.ids is not None and rows >= 1000 and seen.ids < USED_SHARE * rows:
        text = f"{formats.count(seen.ids)} of {formats.count(rows)} rows"
        yield Finding("empty_table", (feature.name,), 1 - seen.ids / rows, text)


def _duplicates(profiles: tuple[Profile, ...]) -> Iterator[Finding]:
    groups: dict[bytes, list[str]] = {}
    for profile in profiles:
        if not is_constant(profile):
            groups.setdefault(profile.fingerprint, []).append(profile.feature.name)
    for names in groups.values():
        if len(names) > 1:
            yield Finding("duplicate", tuple(names), None, "")


def _unmatched(data: DataProfile) -> Iterator[Finding]:
    for table in data.manifest.joins:
        if table.share >= UNMATCHED_SHARE:
            text = f"{formats.percent(table.share)} of {formats.count(table.rows)} rows"
            yield Finding("unmatched", (table.source,), table.share, text)


def _label(data: DataProfile) -> Iterator[Finding]:
    spec = data.manifest.spec
    if spec.tasks[0].is_rating or spec.target is not None:  # each row of a user is a positive
        return
    splits = {name: data.manifest.splits[name] for name in data.looked_at}  # type: ignore[index]
    for name, split in splits.items():
        if split.positives in (0, split.labelled):
            share = "no positive row" if split.positives == 0 else "no negative row"
            yield Finding("one_class", (name,), None, f"{share} of {formats.count(split.labelled)}")
    base = splits.get(data.base)
    if base is None or base.positives in (0, base.labelled):
        return
    rate = base.positives / base.labelled
    for name, split in splits.items():
        difference = split.positives / split.labelled - rate
        error = (rate * (1 - rate) * (1 / split.labelled + 1 / base.labelled)) ** 0.5
        if abs(difference) >= max(RATE_DIFFERENCE * rate, _RATE_ERRORS * error):
            text = f"{formats.percent(rate + difference)}, {data.base} {formats.percent(rate)}"
            yield Finding("label_rate", (name,), abs(difference), text)
