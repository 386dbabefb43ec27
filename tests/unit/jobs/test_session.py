"""Looking at a Spark master, without starting Spark."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jobs.errors import EnvironmentFault
from jobs.session import finds_paths_here, spark_session
from sharding.errors import UserError


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql")
    monkeypatch.setattr(sql.SparkSession, "getActiveSession", lambda: None)
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("master", ["nonsense", "localhost:7077", "spark:localhost", "http://localhost:8080"])
def test_a_master_of_no_known_kind_is_refused_before_java_starts(master: str) -> None:
    with pytest.raises(UserError, match="no such kind of Spark master") as caught:
        spark_session("test", master=master)
    assert "--master" in caught.value.where
    assert "Java" not in str(caught.value)


@pytest.mark.usefixtures("no_session")
def test_plain_paths_are_of_this_machine_unless_something_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "SPARK_REMOTE", "SPARK_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    assert finds_paths_here(None)
    assert finds_paths_here("local[2]")
    assert not finds_paths_here("spark://host:7077")
    for line in ("spark.master yarn", "spark.hadoop.fs.defaultFS hdfs://host"):
        (tmp_path / "spark-defaults.conf").write_text(f"{line}\n")
        assert not finds_paths_here(None)
        (tmp_path / "spark-defaults.conf").unlink()
    (tmp_path / "core-site.xml").touch()
    assert not finds_paths_here(None)
    (tmp_path / "core-site.xml").unlink()
    for name in ("HADOOP_CONF_DIR", "PYSPARK_GATEWAY_PORT", "SPARK_REMOTE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "there")
            assert not finds_paths_here(None)
    assert finds_paths_here(None)


@pytest.mark.usefixtures("no_session")
def test_a_standalone_master_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        master = f"spark://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match="does not answer") as caught:
            spark_session("test", master=master)
    assert caught.value.got == master
    assert "--master" in caught.value.where
    assert "Java" not in str(caught.value)
