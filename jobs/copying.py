"""`copy`: a prepared data set from one place to another; readers never see half of it.

A folder takes its place in one step (`jobs.preparation.commit`), a data set on a store in one request
(`jobs.store_target`).
"""

from __future__ import annotations

import time
from pathlib import Path

from jobs.file_copies import copy_files, require_sizes
from jobs.preparation.commit import output_folder, staged_folder
from jobs.results import Dataset
from jobs.store_target import Replaced, files_of, put_dataset
from sharding.files import write_atomically
from trainer.errors import ConfigError, DamagedError
from trainer.schema import MANIFEST_FILE, Manifest
from trainer.storage import Place, StorePath, as_place, file_system, read_text

_WHOLE = ["copy from where it is whole", "prepare the data set again"]


def copy_dataset(source: Dataset | str | Place, target: str | Place) -> Dataset:
    """Copy a prepared data set; one that is at the target already is replaced.

    Files are copied 16 at once, `manifest.json` last. A copy to a store that was broken off leaves the data
    set that is there whole, and goes on where it stopped.

    Args:
        source: data set: one that a verb returned, a path, or a URL such as `s3://bucket/prepared/ads`.
        target: folder or URL to make.

    Returns:
        The copy.

    Raises:
        DataError: the source is no whole data set, or the target is something else than a data set.
        ConfigError: one of the two lies inside the other, or rows for a store have their vectors in a folder.
        StoreError: a store cannot be reached, refuses access, or keeps failing.
        UserError: no permission to write, or the disk is full.
    """
    return _copied(source, target, None)


def put_larger(source: Path, target: StorePath, text: str) -> Dataset:
    """Copy a data set that rows were added to over the one that it was made from; see `copy_dataset`.

    Args:
        source: its folder.
        target: URL of the one that it was made from, whose part files it has and the store keeps.
        text: manifest of that one.

    Raises:
        StoreError: as above; or the data set at the URL was changed meanwhile.
    """
    old = Manifest.model_validate_json(text)
    kept = {part.path: part.bytes for split in old.splits.values() for part in split.files}
    return _copied(source, target, Replaced(text, kept))


def _copied(source: Dataset | str | Place, target: str | Place, replaced: Replaced | None) -> Dataset:
    start = time.perf_counter()
    origin = source.path if isinstance(source, Dataset) else as_place(source)
    manifest = Manifest.load(origin)
    sizes = _sizes(origin, manifest)
    place = as_place(target)
    if not isinstance(place, StorePath):
        place = output_folder(place)
    _require_apart(origin, place)
    if isinstance(place, StorePath):
        _require_vectors_there(manifest)
        manifest = put_dataset(origin, place, sizes, replaced)
    else:
        with staged_folder(place) as staging:
            copy_files(manifest.folder_in(origin), staging, sizes)
            require_sizes(staging, sizes)
            moved = manifest.files_in is not None
            manifest = manifest.model_copy(update={"files_in": None})
            text = manifest.as_text() if moved else read_text(origin / MANIFEST_FILE)
            write_atomically(staging / MANIFEST_FILE, text)
    return Dataset(place, manifest, seconds=time.perf_counter() - start)


def _sizes(origin: Place, manifest: Manifest) -> dict[str, int]:
    """Return the bytes of every file of a data set but its manifest, all part files among them."""
    sizes = files_of(origin, manifest)
    for split in manifest.splits.values():
        for part in split.files:
            if sizes.get(part.path) != part.bytes:
                raise DamagedError(
                    "the data set is not whole: a part file is missing or has another size",
                    where=str(origin / part.path),
                    got="no file" if part.path not in sizes else f"{sizes[part.path]:,} bytes",
                    allowed=f"{part.bytes:,} bytes, as the manifest says",
                    fixes=_WHOLE,
                )
    for folder in _folders(manifest):
        if not any(name.startswith(f"{folder}/") for name in sizes):
            raise DamagedError(
                "the data set is not whole: a folder is missing or empty",
                where=str(origin / folder),
                fixes=_WHOLE,
            )
    return sizes


def _folders(manifest: Manifest) -> list[str]:
    """Return the folders of vocabularies and vectors that a data set must have."""
    if not manifest.config_hash:  # rows to be scored (`write_inputs`), which leave them where they are
        return []
    features = manifest.spec.features
    tables = [feature.vectors.folder for feature in features if feature.vectors is not None]
    return [*(feature.vocabulary for feature in features if feature.vocabulary is not None), *tables]


def _require_vectors_there(manifest: Manifest) -> None:
    """Check that readers of a store find the vectors: in the data set, or on a store."""
    if manifest.vectors_in is not None and isinstance(as_place(manifest.vectors_in), Path):
        raise ConfigError(
            "the vectors of these rows lie in a folder of this machine, where readers of a store cannot look",
            where="vectors_in",
            got=manifest.vectors_in,
            fixes=["copy that data set to the store, and write the rows with its URL as `vectors_in`"],
        )


def _require_apart(origin: Place, target: Place) -> None:
    # A link to a folder is that folder.
    ends = [place.resolve() if isinstance(place, Path) else place for place in (origin, target)]
    (first, mine), (second, theirs) = (file_system(place) for place in ends)
    inside = f"{mine}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{mine}/")
    if inside and first.equals(second):
        raise ConfigError(
            "a data set cannot be copied onto itself, or into itself",
            where=str(target),
            got=str(origin),
            fixes=["choose another target"],
        )
