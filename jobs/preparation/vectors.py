"""Precomputed vectors: their ids numbered by a distributed sort, the vectors written by the executors."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.failures import named_source
from jobs.preparation.rows import large_batches, map_in_arrow, mapped
from jobs.preparation.sources import read_source, require_columns
from jobs.preparation.spark_paths import spark_path
from jobs.preparation.text_files import UNNAMED
from jobs.preparation.vector_parts import (
    FOUND,
    HASHES,
    Found,
    Parts,
    Problem,
    id_part,
    number_ids,
    part_name,
    print_ids,
    problem_error,
)
from jobs.preparation.vocabulary import (
    VOCABULARY_FOLDER,
    FittedVocabulary,
    plain_folders,
)
from trainer.config import RunConfig, SourceConfig, VectorsConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import FIRST_VOCABULARY_ID, Feature, FeatureSpec, VectorTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VECTORS_FOLDER = "vectors"
_SCRATCH = "_vectors"
_NOTHING = "0" * 32
# One part at most; and what Spark hands over at once.
_PART_BYTES = 256 * 2**20
_BATCH_BYTES = 8 * 2**20
# Beside its numbers, about what an id takes.
_ID_BYTES = 64
_NUMBERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType, T.FloatType, T.DoubleType, T.DecimalType)
_EXACT_IDS = (T.StringType, T.ByteType, T.ShortType, T.IntegerType, T.LongType)


@dataclass(frozen=True)
class FittedVectors:
    """Stored vectors, and the vocabulary of their ids."""

    vocabulary: FittedVocabulary
    table: VectorTable

    @property
    def num_embeddings(self) -> int:
        """Return the largest id + 1."""
        return FIRST_VOCABULARY_ID + self.vocabulary.size


@dataclass(frozen=True)
class _Wanted:
    """Vectors of a config; `where` is the key path of the first feature that looks them up.

    `remarks` takes what reading them left out.
    """

    config: VectorsConfig
    root: str
    where: str
    remarks: list[str]

    @property
    def key(self) -> tuple[SourceConfig, str, str]:
        """Return what decides which vectors these are."""
        return self.config.source, self.config.id_column, self.config.column

    @property
    def place(self) -> str:
        """Return key and source in words."""
        source = self.config.source
        return f"{self.where}.source: {source.table or ', '.join(source.paths())}"


def fit_vectors(
    run: RunConfig, dataset: Path, spark: SparkSession, remarks: list[str]
) -> dict[str, FittedVectors]:
    """Write `vectors/<feature>/` and its vocabulary; features of the same source, id and column share one.

    Args:
        run: names the vectors.
        dataset: folder of the data set under construction.
        spark: the session.
        remarks: takes what was skipped as damaged.

    Returns:
        The vectors by feature: ids in the order of their texts.

    Raises:
        DataError: a source cannot be read, or what it holds cannot be looked up.
    """
    wanted = _wanted(run, remarks)
    # A table's name has no dot, so that no vocabulary of one is of this name.
    vocabularies = plain_folders([f"vectors.{name}" for name in wanted], VOCABULARY_FOLDER)
    folders = plain_folders(list(wanted), VECTORS_FOLDER)
    made: dict[str, FittedVectors] = {}
    for name, own in wanted.items():
        first = next(other for other, theirs in wanted.items() if theirs.key == own.key)
        if first not in made:
            stored = FittedVocabulary(vocabularies[f"vectors.{first}"], 0, _NOTHING)
            empty = VectorTable(folder=folders[first], dim=0, digest=_NOTHING)
            made[first] = _added(own, FittedVectors(stored, empty), dataset, spark)
        made[name] = made[first]
    return made


def grow_vectors(
    run: RunConfig, spec: FeatureSpec, dataset: Path, spark: SparkSession, remarks: list[str]
) -> dict[str, FittedVectors]:
    """Add the vectors of new ids as new parts; old ids keep their numbers and vectors.

    Args:
        run: names the vectors.
        spec: of the data set.
        dataset: folder of the data set under construction, which holds the old vectors.
        spark: the session.
        remarks: takes what was skipped as damaged.

    Returns:
        The vectors by feature: those that shared a folder share it still.

    Raises:
        ConfigError: features that share a folder name different sources now.
        DataError: as of `fit_vectors`; or the lists of new ids have another length than the old ones.
    """
    wanted = _wanted(run, remarks)
    tables = {feature.name: feature.vectors for feature in spec.vectors if feature.vectors is not None}
    firsts: dict[str, Feature] = {}
    for feature in spec.vectors:
        first = firsts.setdefault(tables[feature.name].folder, feature)
        if wanted[first.name].key != wanted[feature.name].key:
            raise ConfigError(
                f"features {first.name!r} and {feature.name!r} share their vectors, so they need one source",
                where=wanted[feature.name].place,
                got=f"another source than {wanted[first.name].place}",
                fixes=["name one source for both", "prepare all rows again, without --append"],
            )
    made: dict[str, FittedVectors] = {}
    for folder, feature in firsts.items():
        size = (feature.num_embeddings or 0) - FIRST_VOCABULARY_ID
        old = FittedVocabulary(str(feature.vocabulary), size, str(feature.vocabulary_hash))
        made[folder] = _added(wanted[feature.name], FittedVectors(old, tables[feature.name]), dataset, spark)
    return {name: made[table.folder] for name, table in tables.items()}


def _wanted(run: RunConfig, remarks: list[str]) -> dict[str, _Wanted]:
    """Return the vectors of a config by feature."""
    return {
        str(group.name): _Wanted(group.vectors, run.data.root, f"features.dense.{number}.vectors", remarks)
        for number, group in enumerate(run.features.dense)
        if group.vectors is not None
    }


def _added(own: _Wanted, old: FittedVectors, dataset: Path, spark: SparkSession) -> FittedVectors:
    """Write the vectors of the ids that `old` lacks, behind its own."""
    scratch = dataset / _SCRATCH
    (scratch / "ids").mkdir(parents=True)
    try:
        with named_source(own.place):
            dim, found = _write_parts(own, old, dataset, scratch, spark)
        if not found:  # no id is new
            return old
        _move(scratch, dataset / old.table.folder)
        vocabulary = _number(old.vocabulary, found, dataset, scratch, spark)
    finally:
        shutil.rmtree(scratch)
    digest = _digest(old.table.digest, [part.hashes for part in found])
    return FittedVectors(vocabulary, VectorTable(folder=old.table.folder, dim=dim, digest=digest))


def _number(
    old: FittedVocabulary, found: list[Found], dataset: Path, scratch: Path, spark: SparkSession
) -> FittedVocabulary:
    """Write the ids of all parts with their numbers as new parts of the vocabulary."""
    folder, end = dataset / old.folder, old.size
    folder.mkdir(parents=True, exist_ok=True)
    there = len(list(folder.glob("part-*.parquet")))
    tasks = []
    for number, part in enumerate(found, start=there):
        target = folder / f"part-{number:05d}.parquet"
        tasks.append((str(scratch / "ids" / id_part(part.part)), str(target), FIRST_VOCABULARY_ID + end))
        end += part.rows
    rows = spark.createDataFrame(tasks, "source string, target string, first long").repartition(len(tasks))
    told = mapped(rows, rows.columns, number_ids, "a string, b string").collect()
    return FittedVocabulary(old.folder, end, _digest(old.digest, [[int(a), int(b)] for a, b in told]))


def _digest(old: str, new: Iterable[Sequence[int]]) -> str:
    """Add hashes to a digest: a set that has grown has that of one that was whole at once."""
    halves = int(old[:16], 16), int(old[16:], 16)
    for pair in new:
        halves = halves[0] + pair[0], halves[1] + pair[1]
    return "".join(f"{half % 2**64:016x}" for half in halves)


def _read(own: _Wanted, spark: SparkSession) -> DataFrame:
    """Return `id`, `vector` (array<float>) and `BAD_LINE`."""
    config = own.config
    name, column = config.id_column, config.column
    rows = read_source(config.source, own.root, spark, f"{own.where}.source", remarks=own.remarks)
    have = [c for c in rows.columns if c != C.BAD_LINE and not c.startswith(UNNAMED)]
    require_columns([name], have, f"{own.place}: id")
    require_columns([column], have, f"{own.place}: column")
    kind = rows.schema[column].dataType
    if not isinstance(kind, T.ArrayType) or not isinstance(kind.elementType, _NUMBERS):
        raise DataError(
            f"column {column!r} holds no vectors",
            where=own.place,
            got=kind.simpleString(),
            allowed="lists of numbers",
            fixes=[
                "write it to Parquet as array<float> or list<float>",
                "of Spark ML vectors: pyspark.ml.functions.vector_to_array",
            ],
        )
    try:
        C.single_token(rows, name, own.place)
    except DataError as error:
        raise DataError(error.what, where=own.place, got=error.got, allowed=error.allowed) from error
    vector = C.column(column).cast("array<float>").alias("vector")
    return rows.select(C.column(name).alias("id"), vector, C.BAD_LINE)


def _with_texts(rows: DataFrame) -> DataFrame:
    """Return `value` (the id as text), `vector` and `BAD_LINE`."""
    if isinstance(rows.schema["id"].dataType, _EXACT_IDS):
        return rows.select(C.token(rows, "id").alias("value"), "vector", C.BAD_LINE)
    # What is no text and no integer is printed by the code that prints the ids of rows.
    fields = [T.StructField("value", T.StringType()), *rows.schema.fields[1:]]
    return map_in_arrow(rows, print_ids, T.StructType(fields))


def _write_parts(
    own: _Wanted, old: FittedVectors, dataset: Path, scratch: Path, spark: SparkSession
) -> tuple[int, list[Found]]:
    """Sort the rows by id and write parts of vectors and ids; return the vectors' length, and the parts."""
    rows = _read(own, spark)
    count = rows.count()
    if not count:
        raise DataError("the source of vectors has no rows", where=own.place)
    first = rows.where(F.col("vector").isNotNull()).select(F.size("vector").alias("dim")).first()
    dim = old.table.dim or (first["dim"] if first is not None else 0)
    size = 4 * max(dim, 1)
    with large_batches(spark, max(1, _BATCH_BYTES // size)):
        rows = _with_texts(rows)
        if old.vocabulary.size:
            known = spark.read.parquet(spark_path(dataset / old.vocabulary.folder)).select("value")
            rows = rows.join(known, "value", "left_anti")
        a, b = HASHES
        hashed = rows.withColumn(a, F.xxhash64("value", "vector"))
        hashed = hashed.withColumn(b, F.xxhash64("vector", "value", F.lit(7)))
        partitions = 1 + count * (size + _ID_BYTES) // _PART_BYTES
        placed = hashed.repartitionByRange(partitions, "value").sortWithinPartitions("value")
        told = map_in_arrow(placed, Parts(str(scratch), dim), FOUND).collect()
    found = sorted((Found.from_json(row["found"]) for row in told), key=lambda part: part.part)
    _refuse(own, found, dim)
    return dim, found


def _refuse(own: _Wanted, found: list[Found], dim: int) -> None:
    """Raise the most basic problem that the tasks have found."""
    bad: dict[Problem, tuple[int, str]] = {}
    for part in found:
        for problem, (count, quote) in part.bad.items():
            before, least = bad.get(problem, (0, quote))
            bad[problem] = before + count, min(least, quote)
    for problem in Problem:
        if problem in bad:
            place = f"{own.place}: id {own.config.id_column!r}, column {own.config.column!r}"
            raise problem_error(problem, *bad[problem], dim, place)


def _move(scratch: Path, folder: Path) -> None:
    """Number the parts through, behind those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    there = len(list(folder.glob("part-*.npy")))
    for number, path in enumerate(sorted(scratch.glob("part-*.npy")), start=there):
        path.replace(folder / part_name(number))
