"""`shardrec bench read`: which readers it measures, what they read, and the form of its figures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.benchmarks.memory import growth
from jobs.benchmarks.readers import BATCHED_LOADER, Reading
from jobs.benchmarks.reading import _short_passes
from jobs.benchmarks.rows import write_synthetic_rows
from jobs.benchmarks.timing import Pass, median_ratio, timed_rounds
from jobs.cli import main
from tests.support.datasets import WrittenDataset, write_dataset

HAS_PETASTORM = importlib.util.find_spec("petastorm") is not None
KEYS = {"name", "value", "unit", "ratio", "against"}
ONCE = ["--repeats", "1", "--epochs", "0"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    return write_dataset(tmp_path_factory.mktemp("bench"), rows=1003, num_lists=0, num_sequences=0)


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["bench", "read", "--json", *arguments]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value.keys() == {"rows"}
    return value["rows"]


def test_generated_rows_are_measured_with_ratios_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "--rows", "4000", "--batch-size", "512", "--repeats", "1", "--epochs", "4")
    assert all(row.keys() == KEYS for row in rows)
    speeds = {(row["name"], row["against"]): row for row in rows if row["unit"] == "synthetic rows/s"}
    assert all(row["value"] > 0 for row in speeds.values())
    assert all((row["ratio"] is None) == (row["against"] is None) for row in rows)
    for order in ("shuffled", "in order"):
        assert (f"arrow, {order}", "pyarrow iter_batches") in speeds
    assert any(name.startswith("reader: petastorm") for name, _ in speeds) == HAS_PETASTORM
    slope, last = (row for row in rows if "resident memory" in row["name"])
    assert slope["unit"] == "MiB per epoch"
    assert (last["unit"], last["against"]) == ("MiB", "epoch 3")
    assert last["value"] > 10


def test_every_reader_reads_every_row(written: WrittenDataset) -> None:
    reading = Reading(str(written.folder), written.manifest, "train", batch_size=64, num_lanes=8)
    contenders = reading.contenders()
    assert len(contenders) == (6 if HAS_PETASTORM else 3)
    # petastorm 0.13.1 ends some passes early, see `Reading._batched_loader`: no claim on its own loader.
    ours = {name: make for name, make in contenders.items() if not name.startswith(BATCHED_LOADER)}
    assert {name: sum(make()) for name, make in ours.items()} == dict.fromkeys(ours, 1003)


@pytest.mark.skipif(not HAS_PETASTORM, reason="petastorm is not installed")
def test_rows_that_petastorm_leaves_out_are_counted_not_assumed(written: WrittenDataset) -> None:
    reading = Reading(str(written.folder), written.manifest, "train", batch_size=64, num_lanes=8)
    loaders = {name: make for name, make in reading.contenders().items() if name.startswith(BATCHED_LOADER)}
    for make in loaders.values():
        batches = list(make())
        # Row groups have 64 rows but for the last of each file, of 256 or, in the last one, 235 rows.
        assert sum(batches) in {whole * 64 + rest for whole in range(16) for rest in (0, 43)}
        assert all(size == 64 for size in batches[:-1])


def test_multi_hot_rows_are_measured_in_ids_too_and_without_the_loader_that_cannot_read_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = rows_of(capsys, "--rows", "600", "--batch-size", "96", "--multi-hot", *ONCE)
    by_unit = {(row["name"], row["unit"]): row["value"] for row in rows}
    for order in ("shuffled", "in order"):
        per_row = (
            by_unit[f"arrow, {order}", "synthetic ids/s"] / by_unit[f"arrow, {order}", "synthetic rows/s"]
        )
        assert 36 < per_row < 44  # two lists of 20 ids on average
    assert not any(row["name"].startswith(BATCHED_LOADER) for row in rows)


def test_a_data_set_is_read_up_to_the_part_file_that_completes_the_rows(
    written: WrittenDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of four part files only the first two are needed, so that the others may be missing.
    data = write_dataset(tmp_path, rows=1003, num_lists=0, num_sequences=0)
    for file in data.manifest.splits["train"].files[2:]:
        (tmp_path / file.path).unlink()
    rows = rows_of(capsys, "--data", str(tmp_path), "--rows", "300", "--batch-size", "64", *ONCE)
    assert {"arrow, shuffled", "arrow, in order", "pyarrow iter_batches"} <= {row["name"] for row in rows}
    assert main(["bench", "read", "--data", str(tmp_path), "--rows", "513", "--batch-size", "64", *ONCE]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "somewhere", "--multi-hot"], "--multi-hot says what to generate"),
        (["--epochs", "2"], "too few epochs"),
        (["--data", "nowhere"], "not a data set"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["bench", "read", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_generated_rows_have_the_criteo_shape_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    manifests = [write_synthetic_rows(tmp_path / name, 70_000, seed=3) for name in ("a", "b")]
    assert manifests[0] == manifests[1]
    file = manifests[0].splits["train"].files[0]
    assert file.row_groups == (65_536, 4_464)
    tables = [pq.read_table(tmp_path / name / file.path) for name in ("a", "b")]
    assert tables[0].equals(tables[1])
    assert [str(kind) for kind in tables[0].schema.types] == ["float"] * 13 + ["int64"] * 26 + ["float"]
    assert manifests[0].synthetic


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        order.append(name)
        yield from (2, 3)

    passes = timed_rounds({name: lambda name=name: contender(name) for name in "abc"}, 5, repeats=2)
    assert "".join(order) == "cbaabccba"
    assert {name: [one.work for one in mine] for name, mine in passes.items()} == {
        name: [5, 5] for name in "abc"
    }


def test_a_pass_that_leaves_out_rows_is_tried_again_and_counted_in_no_speed() -> None:
    yields = iter([[3], [2], [1, 2], [3]])  # the round that warms up, then two rounds
    passes = timed_rounds({"loses": lambda: iter(next(yields))}, 3, repeats=2)["loses"]
    assert [(one.work, one.tries, one.whole) for one in passes] == [(3, 2, True), (3, 1, True)]
    (figure,) = _short_passes({"loses": [*passes, Pass(1, 1.0, 1.0, tries=10, whole=False)]})
    assert (figure.value, figure.unit) == (11, "of 13 passes")


def test_ratios_compare_passes_of_the_same_round() -> None:
    # The machine is half as fast in the second round and a tenth in the third: ratios are 2, 2 and 4.
    assert median_ratio([200, 100, 40], [100, 50, 10]) == 2
    assert Pass(work=100, seconds=4.0, cpu_seconds=2.0).per_second == 25
    assert Pass(work=100, seconds=4.0, cpu_seconds=2.0).per_cpu_second == 50


def test_growth_is_the_slope_over_the_epochs() -> None:
    assert growth([100.0, 103.0, 106.0, 109.0]) == pytest.approx(3.0)
    # By hand: the sum of (x - 1.5) * y is -1.5 * 5 - 0.5 * 4 + 0.5 * 6 + 1.5 * 5 = 1, that of squares is 5.
    assert growth([5.0, 4.0, 6.0, 5.0]) == pytest.approx(0.2)
