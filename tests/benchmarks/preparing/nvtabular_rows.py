"""NVTabular 23.8 on CPU, as its examples use it: a Dask cluster of one worker a core, Categorify, LogOp.

It has no random split, so that the workers first deal the raw files with pandas. Rows are shuffled within
NVTabular's partitions, which is less work than shuffling all rows.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks.preparing import CORES, DENSE, FRACTIONS, LABEL, MIN_COUNT, SEED, SPARSE, SPLITS, timed


def prepare(raw: Path, out: Path) -> None:
    """Split, fit on train, transform and write each split."""
    import nvtabular as nvt
    from dask.distributed import get_client
    from nvtabular import ops

    dealt = out / "dealt"
    for split in SPLITS:
        (dealt / split).mkdir(parents=True)
    files = sorted(raw.glob("*.parquet"))
    client = get_client()
    client.gather(client.map(_deal, files, range(len(files)), dealt=dealt, pure=False))
    ids = SPARSE >> ops.Categorify(freq_threshold=MIN_COUNT, out_path=str(out / "vocabulary"))
    numbers = DENSE >> ops.FillMissing(fill_val=0) >> ops.LogOp()
    label = [LABEL] >> ops.LambdaOp(_as_float)
    workflow = nvt.Workflow(label + numbers + ids)
    workflow.fit(nvt.Dataset(str(dealt / "train"), engine="parquet"))
    for split in SPLITS:
        rows = workflow.transform(nvt.Dataset(str(dealt / split), engine="parquet"))
        rows.to_parquet(str(out / split), shuffle=nvt.io.Shuffle.PER_PARTITION)


def _as_float(column: pd.Series) -> pd.Series:
    return column.astype(np.float32)


def _deal(file: Path, number: int, dealt: Path) -> None:
    frame = pd.read_parquet(file)
    draws = np.random.default_rng([SEED, number]).random(len(frame))
    split_of_row = np.searchsorted(np.cumsum(FRACTIONS)[:-1], draws, side="right")
    for split, name in enumerate(SPLITS):
        frame[split_of_row == split].to_parquet(dealt / name / file.name, index=False)


def main() -> None:
    """Start a Dask cluster and prepare with it."""
    from dask.distributed import Client, LocalCluster

    warnings.simplefilter("ignore")
    with (
        tempfile.TemporaryDirectory() as spill,
        LocalCluster(
            n_workers=CORES, threads_per_worker=1, dashboard_address=None, local_directory=spill
        ) as cluster,
        Client(cluster),
    ):
        timed(prepare)


if __name__ == "__main__":
    main()
