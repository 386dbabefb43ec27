"""spark-submit where shardrec is installed as a wheel, and no checkout can be found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import RunConfig, train
from tests.support.cluster import REPOSITORY, spark_environment, standalone_cluster
from tests.support.run_folders import losses
from tests.support.tiny import CONFIG, tiny_data

pytestmark = pytest.mark.cluster


def environment_without_shardrec(folder: Path) -> Path:
    """Make an environment that has all that this one has but shardrec: links to it are not followed."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    [packages] = folder.glob("lib/python3.*/site-packages")
    (packages / "others.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages"))
    )
    return folder / "bin" / "python"


def test_ranks_run_the_wheel(tmp_path: Path) -> None:
    python = environment_without_shardrec(tmp_path / "env")
    wheels = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, REPOSITORY]
    subprocess.run(wheels, check=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("shardrec-*.whl")
    run = RunConfig.from_dict(CONFIG)
    data = tiny_data(tmp_path / "data", run)
    (tmp_path / "tiny.yaml").write_text(run.to_yaml())
    alone = train(run, data, out=tmp_path / "alone", show_progress=False)
    submit = Path(spark_environment()["SPARK_HOME"]) / "bin" / "spark-submit"
    pythons = ["--conf", f"spark.pyspark.python={python}", "--conf", f"spark.pyspark.driver.python={python}"]
    command = ["train", "tiny.yaml", "--data", data.path, "--on", "spark", "--ranks", 2, "--out"]
    nowhere = {"spark.executorEnv.PYTHONPATH": str(tmp_path)}
    (tmp_path / "cluster").mkdir()
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    [cli] = (tmp_path / "env").glob("lib/python3.*/site-packages/jobs/cli.py")
    with standalone_cluster(tmp_path / "cluster", workers=1, cores_per_worker=2, memory="2g") as cluster:
        words = [submit, "--master", cluster.url, *pythons, cli, *command, tmp_path / "installed"]
        done = cluster.run(*words, cwd=tmp_path, conf=nowhere)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert losses(tmp_path / "installed") == pytest.approx(losses(alone.path), rel=1e-4)
