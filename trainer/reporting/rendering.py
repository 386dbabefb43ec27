"""Templates filled in and written as pages that need nothing but themselves."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sharding.files import write_atomically
from trainer.errors import DataError


def write_page(path: Path, template: str, page: object) -> Path:
    """Fill in a template, every text of it escaped, and write it as a whole or not at all.

    Args:
        path: of the page.
        template: file under `templates/`.
        page: what the template shows, under the name `page`.

    Returns:
        The path of the page.

    Raises:
        DataError: the page cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("trainer.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(page=page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise DataError(
            f"the report cannot be written: {error.strerror}",
            where=str(path),
            fixes=["free disk space or mend the permissions of the folder"],
        ) from error
    return path
