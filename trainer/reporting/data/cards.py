"""One card per feature: its picture, its numbers, and for ids the most frequent ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from trainer.reporting import formats
from trainer.reporting.data.dense import QUANTILES, DenseProfile
from trainer.reporting.data.ids import NUM_TOP, IdProfile
from trainer.reporting.data.pictures import Picture, coverage_curve, histogram, lengths_histogram
from trainer.reporting.data.profile import DataProfile, Profile

MAX_CARDS = 60
_MAX_TOKEN = 48


@dataclass(frozen=True)
class Bar:
    """A value of a list, drawn as a bar: `level` is empty, `medium` or `high`."""

    label: str
    value: str
    percent: float
    level: str = ""


@dataclass(frozen=True)
class Card:
    """A feature.

    Attributes:
        name: of the feature.
        about: its numbers in words.
        flags: titles of its findings.
        pictures: with a title each.
        bars: the most frequent ids with their share.
    """

    name: str
    about: str
    flags: tuple[str, ...]
    pictures: tuple[tuple[str, Picture], ...]
    bars: tuple[Bar, ...] = ()


def dense_cards(data: DataProfile, flags: dict[str, tuple[str, ...]]) -> tuple[Card, ...]:
    """Return the cards of the dense features, at most `MAX_CARDS`.

    Args:
        data: the data set's profile.
        flags: titles of the findings by feature.
    """
    return tuple(_dense(data, profile, flags) for profile in _chosen(data.dense, flags))


def id_cards(data: DataProfile, flags: dict[str, tuple[str, ...]]) -> tuple[Card, ...]:
    """Return the cards of the sparse and sequence features, at most `MAX_CARDS`."""
    return tuple(_ids(data, profile, flags) for profile in _chosen(data.ids, flags))


def left_out(number: int) -> str:
    """Return a note on the features without a card."""
    if number <= MAX_CARDS:
        return ""
    return (
        f"{MAX_CARDS} of {number:,} features are pictured: those with findings first, then in model order. "
        "The table holds all of them."
    )


def shown_token(token: str | None, number: int) -> str:
    """Return a token as it can be shown: characters that print nothing replaced, and not too long."""
    if token is None:
        return f"id {number:,}"
    text = "".join(c if c.isprintable() else "\ufffd" for c in token)
    return (text if len(text) <= _MAX_TOKEN else text[: _MAX_TOKEN - 1] + "\u2026") or "(empty)"


def _chosen(profiles: Sequence[Profile], flagged: Collection[str]) -> Sequence[Profile]:
    if len(profiles) <= MAX_CARDS:
        return profiles
    return sorted(profiles, key=lambda profile: profile.feature.name not in flagged)[:MAX_CARDS]


def _dense(data: DataProfile, profile: Profile, flags: dict[str, tuple[str, ...]]) -> Card:
    assert isinstance(profile, DenseProfile)
    pictures: tuple[tuple[str, Picture], ...] = ()
    dim = profile.feature.dim
    about = [*([f"lists of {dim:,}"] if dim else []), f"missing {formats.percent(data.missing(profile))}"]
    if profile.histogram:
        ends = (formats.general(float(edge)) for edge in (profile.edges[0], profile.edges[-1]))
        pictures = (("", histogram(list(profile.histogram.values()), *ends)),)
        median = profile.quantiles[QUANTILES.index(0.5)]
        about.append(f"{profile.distinct:,} value{'s' if profile.distinct != 1 else ''}")
        about.append(f"median {formats.general(median)}")
        if profile.most_frequent >= 0.05:
            about.append(f"most frequent {formats.percent(profile.most_frequent, 0)}")
    name = profile.feature.name
    return Card(name, ", ".join(about), flags.get(name, ()), pictures)


def _ids(data: DataProfile, profile: Profile, flags: dict[str, tuple[str, ...]]) -> Card:
    assert isinstance(profile, IdProfile)
    feature, base = profile.feature, profile.splits[data.base]
    about = [
        f"{profile.distinct:,} of {feature.num_embeddings or 0:,} ids seen",
        f"missing {formats.percent(base.missing)}",
    ]
    if feature.vectors is not None:
        about.insert(0, f"vectors of {feature.vectors.dim:,} by {feature.column}")
    if base.out_of_vocabulary is not None:
        about.append(f"OOV {formats.percent(base.out_of_vocabulary)}")
    pictures: list[tuple[str, Picture]] = []
    if profile.distinct > NUM_TOP:
        about.append(f"top 1\u202f% have {formats.percent(profile.top_share, 0)}")
        pictures.append(
            ("Share of all ids held by the first ...", coverage_curve(profile.coverage, profile.distinct))
        )
    if profile.lengths is not None and profile.lengths.total:
        pictures.append(("Ids per row", lengths_histogram(profile.lengths)))
    tokens = data.tokens.get(feature.name, {})
    widest = max((share for _, share in profile.top), default=1.0)
    bars = tuple(
        Bar(shown_token(tokens.get(i), i), formats.percent(share), 100 * share / widest)
        for i, share in profile.top
    )
    return Card(feature.name, ", ".join(about), flags.get(feature.name, ()), tuple(pictures), bars)
