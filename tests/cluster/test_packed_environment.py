"""`pack`: the archive runs where no other Python of ours is, by itself and as Spark's executors unpack it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import RunConfig, train
from jobs.packing import pack
from sharding.errors import UserError
from tests.support.cluster import REPOSITORY, spark_environment, standalone_cluster
from tests.support.run_folders import losses
from tests.support.tiny import CONFIG, tiny_data

pytestmark = pytest.mark.cluster
# What no executor needs; the rest is as large as torch is.
OF_TESTS = (
    "scipy",
    "scikit-learn",
    "moto",
    "mypy",
    "mkdocs-material",
    "faiss-cpu",
    "ruff",
    "matplotlib",
    "babel",
)
WHERE = "import sys, torch, pyarrow, jobs; print(sys.prefix, *(m.__file__ for m in (torch, pyarrow, jobs)))"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("packed")
    packed = pack(folder / "env.tar.gz", without=OF_TESTS)
    assert packed.size == packed.path.stat().st_size
    assert [path.name for path in folder.iterdir()] == ["env.tar.gz"]
    yield packed.path
    shutil.rmtree(folder)  # 1.5 GB that pytest would keep


def test_executors_run_the_archive_that_spark_submit_hands_them(archive: Path, tmp_path: Path) -> None:
    run = RunConfig.from_dict(CONFIG)
    data = tiny_data(tmp_path / "data", run)
    (tmp_path / "tiny.yaml").write_text(run.to_yaml())
    alone = train(run, data, out=tmp_path / "alone", show_progress=False)
    submit = Path(spark_environment()["SPARK_HOME"]) / "bin" / "spark-submit"
    packed = ["--archives", f"{archive}#env", "--conf", "spark.pyspark.python=./env/bin/python"]
    packed += ["--conf", f"spark.pyspark.driver.python={sys.executable}"]
    out = tmp_path / "run"
    command = ["train", "tiny.yaml", "--data", data.path, "--out", out, "--on", "spark", "--ranks", 2]
    (tmp_path / "cluster").mkdir()
    with standalone_cluster(tmp_path / "cluster", workers=1, cores_per_worker=2, memory="2g") as cluster:
        # Nothing leads executors to this checkout.
        nowhere = {"spark.executorEnv.PYTHONPATH": str(tmp_path)}
        cli = REPOSITORY / "jobs" / "cli.py"
        done = cluster.run(
            submit, "--master", cluster.url, *packed, cli, *command, cwd=tmp_path, conf=nowhere
        )
        assert done.returncode == 0, done.stdout + done.stderr
        [env] = tmp_path.glob("cluster/worker_0/*/*/env")
        check_alone(env, tmp_path / "moved")
    assert losses(out) == pytest.approx(losses(alone.path), rel=1e-4)


def check_alone(unpacked: Path, env: Path) -> None:
    """Check that an unpacked environment works in another folder, and finds nothing outside."""
    unpacked.rename(env)
    alone = {"PATH": "/usr/bin:/bin", "HOME": str(env.parent)}
    told = subprocess.run(
        [env / "bin" / "python", "-c", WHERE], env=alone, cwd=env.parent, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert all(place.startswith(str(env)) for place in told.stdout.split())
    for name in ("shardrec", "torchrun"):
        shown = subprocess.run(
            [env / "bin" / name, "--help"], env=alone, cwd=env.parent, capture_output=True, text=True
        )
        assert shown.returncode == 0, shown.stderr
        assert "usage: " in shown.stdout
    packages = next(env.glob("lib/python3.*/site-packages"))
    assert not (packages / "scipy" / "__init__.py").exists()
    assert not (packages / "pyspark" / "jars").exists()
    shutil.rmtree(env)


def test_other_endings_and_unknown_packages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no archive of this ending"):
        pack(tmp_path / "env.zip")
    with pytest.raises(UserError, match="no such distribution"):
        pack(tmp_path / "env.tar.gz", without=("nothing-like-it",))
    assert list(tmp_path.iterdir()) == []
