"""Whether rows of a new day can join a data set: the same config, and nothing that would move old rows."""

from __future__ import annotations

from typing import Any

from jobs.preparation.commit import output_folder
from jobs.preparation.earlier_days import EarlierDays
from jobs.preparation.negatives import adds_rows
from jobs.resuming import differing_keys
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.schema import Manifest, SplitName
from trainer.storage import Place, StorePath, as_place

_PREPARE_ALL = "prepare all rows again, without --append"
_GIVE_ALL = "give the raw rows of all earlier days again: --history-input PATH..."


def appended_to(
    run: RunConfig, out: str | Place, into: SplitName | None = None, earlier: EarlierDays | None = None
) -> Manifest:
    """Return the manifest of the data set that rows can be added to.

    Args:
        run: the config; its source holds the new rows alone.
        out: folder or URL of the data set.
        into: split of all new rows, if one is named.
        earlier: raw rows of the data set, if they are given again.

    Raises:
        ConfigError: the config is not that of the data set, or has what a new day cannot be given.
        DataError: there is no data set.
    """
    place = as_place(out)
    old = Manifest.load(place if isinstance(place, StorePath) else output_folder(place))
    _check_same(run, old, place)
    _check_old_rows_stay(run, into)
    if earlier is None:
        _check_alone(run)
    else:
        _check_times_of_days(run)
    return old


def _check_same(run: RunConfig, old: Manifest, target: Place) -> None:
    """Check that the config is the data set's, but for the times that cut the splits."""
    mine, theirs = without_borders(run.preparation()), without_borders(old.preparation)
    if old.config_hash == run.preparation_hash() or mine == theirs:
        return
    raise ConfigError(
        "the data set was prepared with another config",
        where=str(target),
        got="; ".join(differing_keys(theirs, mine)[:5]) or old.config_hash,
        allowed="the same settings, but for other times in data.split.until",
        fixes=["append with the config of the data set", _PREPARE_ALL],
    )


def without_borders(preparation: dict[str, Any]) -> dict[str, Any]:
    """Return what `RunConfig.preparation` gives, saying only whether the splits are cut at given times."""
    data = preparation.get("data", {})
    split = data.get("split", {})
    split = {**split, "until": split.get("until") is not None}
    return {**preparation, "data": {**data, "split": split}}


def _check_old_rows_stay(run: RunConfig, into: SplitName | None) -> None:
    """Refuse what new rows would change about old ones, which are not written again."""
    data = run.data
    shares = data.split.method == "time" and data.split.until is None and into is None
    reasons: dict[str, tuple[bool, str, list[str]]] = {
        "data.user_rows": (
            data.user_rows is not None,
            "a user's new events belong into the row that is there",
            [],
        ),
        "data.split.method: leave_last": (
            data.split.leave_last is not None,
            "a user's new events would push the old test and valid events into train",
            ["for data that grows by days: data.split.method: time with `until`, prepared once that way"],
        ),
        "data.split.method: time, with fractions": (
            shares,
            "the times that cut the fractions move with every new row",
            ["name the split of the new rows: --append-to train", "data.split.until gives times that stay"],
        ),
        "data.clean.k_core": (
            bool(data.clean.k_core),
            "rows that were too rare may be frequent enough together with the new ones",
            ["for data that grows by days: no k_core, and `vocabulary: {min_count: ...}` for rare ids"],
        ),
    }
    for where, (found, reason, fixes) in reasons.items():
        if found:
            raise ConfigError(
                "the rows of a new day cannot be added: they change what becomes of the old rows",
                where=where,
                got=reason,
                fixes=[*fixes, _PREPARE_ALL],
            )


def _check_alone(run: RunConfig) -> None:
    """Refuse what looks at the old rows as well, where they are not given again."""
    groups = [group for kind in ("dense", "sparse", "sequence") for group in getattr(run.features, kind)]
    looking = [g.name for g in groups if g.history is not None or g.earlier is not None]
    found = [f"features: {name}" for name in looking]
    found += ["data.clean.deduplicate"] if run.data.clean.deduplicate is not None else []
    found += ["data.negatives"] if adds_rows(run.data.negatives) else []
    if found:
        raise ConfigError(
            "the rows of a new day cannot be prepared on their own: this looks at the old rows as well",
            where=found[0],
            got=f"also {', '.join(found[1:4])}" if found[1:] else None,
            fixes=[_GIVE_ALL, _PREPARE_ALL],
        )


def _check_times_of_days(run: RunConfig) -> None:
    """Refuse places in a file as times: those of two days do not compare."""
    number = run.data.source.row_number if run.data.source is not None else None
    groups = [group for kind in ("dense", "sequence") for group in getattr(run.features, kind)]
    for group in groups:
        if number is not None and getattr(group.derived, "time", None) == number:
            raise ConfigError(
                "row numbers start again with every day, so they cannot order the rows of several days",
                where=f"features: {group.name}",
                got=f"time: {number} (data.source.row_number)",
                fixes=["name a column with the time of the event", _PREPARE_ALL],
            )
