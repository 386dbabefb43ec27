"""Which columns of a data set say who met what: from its rows of users, or from the names of two columns."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.inputs import known_from
from trainer.schema import Feature, FeatureSpec, Manifest


@dataclass(frozen=True)
class Roles:
    """Where users and items stand.

    Attributes:
        item: feature whose ids are the items: one of each event, or the target of rows of users.
        lists: features with a row's items in rows of users; empty where all rows are events.
        user: feature of one id, or kept raw column, of the user of an event; None where training rows are
            those of users.
        user_is_feature: which of both.
        events: feature with the item of an event; None where training rows are those of users.
    """

    item: Feature
    lists: tuple[str, ...] = ()
    user: str | None = None
    user_is_feature: bool = False
    events: str | None = None

    @property
    def first(self) -> int:
        """Return the first id that is an item."""
        return known_from(self.item)

    @property
    def num_items(self) -> int:
        """Return N, the ids from there on."""
        return (self.item.num_embeddings or 0) - self.first


def roles_of(run: RunConfig, manifest: Manifest) -> Roles:
    """Return who is who in a data set.

    Args:
        run: names both columns in `recommend` where no rows are those of users.
        manifest: of the data set.

    Raises:
        ConfigError: the config names no user or item, or the item is no feature of one id.
    """
    spec = manifest.spec
    settings = (manifest.preparation.get("data") or {}).get("user_rows") or {}
    target = spec.target
    if target is not None:
        lists = tuple(feature.name for feature in spec.seen)
        if "train" in settings.get("splits", ()):
            return Roles(target, lists)
        own = next((f for f in spec.looked_up if not f.is_list and f.table == target.table), None)
        if own is None:
            raise ConfigError(
                "no feature says which item an event of the training rows is of",
                where="features",
                fixes=[f"a feature of one id with `table: {target.table}`"],
            )
        return Roles(target, lists, *_user(spec, settings["by"]), own.name)
    if run.recommend is None:
        raise ConfigError(
            "a baseline needs to know which columns are the user and the item",
            where="recommend",
            fixes=[
                "recommend: {user: user_id, item: item_id}",
                "--set recommend.user=... and recommend.item",
            ],
        )
    item = _single(spec, run.recommend.item)
    if item is None or (item.num_embeddings or 0) <= known_from(item):
        raise ConfigError(
            "the item is no feature of one id",
            where="recommend.item",
            got=run.recommend.item,
            allowed=[f.column for f in spec.looked_up if not f.is_list],
        )
    return Roles(item, (), *_user(spec, run.recommend.user), item.name)


def _single(spec: FeatureSpec, column: str) -> Feature | None:
    """Return the feature of one id that is made of a column."""
    return next((f for f in spec.looked_up if not f.is_list and column in (f.column, f.name)), None)


def _user(spec: FeatureSpec, column: str) -> tuple[str, bool]:
    """Return the feature that tells users apart, or the column as one that should be kept."""
    feature = _single(spec, column)
    if feature is not None and feature.vocabulary is not None:
        return feature.name, True
    return column, False
