"""What models share that know a row's user by one id."""

from __future__ import annotations

from typing import ClassVar

from trainer.errors import ConfigError
from trainer.modules.item_section import ItemModelSection
from trainer.registry import ModelInputs


class UserItemSection(ItemModelSection):
    """Config keys of models of a user and items."""

    needs: ClassVar[str] = "ids of user and item"
    user: str | None = None
    """Feature with the user's id. Default: the only feature of one id that is no item."""

    def user_feature(self, inputs: ModelInputs) -> str:
        """Return the feature of the users.

        Raises:
            ConfigError: there is none, or more than one.
        """
        item_table = inputs.table_of(self.item_feature(inputs))
        single = [name for name in inputs.features if name not in (*inputs.lists, *item_table.features)]
        if self.user in single or (self.user is None and len(single) == 1):
            return self.user or single[0]
        raise ConfigError(
            "the model needs to know which feature is the user",
            where="model.user",
            got=self.user,
            allowed=single or None,
            fixes=[f"model.user: {name}" for name in single[:3]] or ["features.sparse: the user's id"],
        )
