"""Who may import whom, and what an import loads."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import grimp
import networkx
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.architecture.source import PACKAGES, ROOT, modules


@pytest.fixture
def loggers() -> Iterator[None]:
    """Leave the loggers of this process as they are; import-linter disables all there are."""
    found = [it for it in logging.root.manager.loggerDict.values() if isinstance(it, logging.Logger)]
    disabled = [logger.disabled for logger in found]
    yield
    for logger, was in zip(found, disabled, strict=True):
        logger.disabled = was


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, loggers: None) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    edges = networkx.DiGraph(
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    )
    circles = [sorted(part) for part in networkx.strongly_connected_components(edges) if len(part) > 1]
    assert circles == []


def _loaded_by(*imports: str) -> set[str]:
    """Return the top-level packages that a new Python has loaded after importing modules."""
    code = f"import sys, {', '.join(imports)}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_what_spark_executors_import_loads_no_torch() -> None:
    names = [module.name for module in modules() if module.name.startswith("jobs.preparation")]
    assert "jobs.preparation" in names
    assert not _loaded_by(*names) & {"torch", "torchrec", "fbgemm_gpu"}


@pytest.mark.parametrize("name", ["trainer.config", "trainer.schema", "trainer.errors", "sharding.errors"])
def test_config_and_schema_load_neither_torch_nor_spark(name: str) -> None:
    assert not _loaded_by(name) & {"torch", "torchrec", "fbgemm_gpu", "pyspark"}


def test_importing_jobs_loads_nothing_heavy() -> None:
    assert not _loaded_by("jobs") & {"torch", "torchrec", "fbgemm_gpu", "pyspark", "pyarrow", "pandas"}


def test_trainer_and_sharding_load_no_spark() -> None:
    names = [module.name for module in modules() if not module.name.startswith("jobs")]
    # petastorm, where it is installed, imports pyspark itself; its reader is loaded on use only.
    assert not _loaded_by(*names) & {"pyspark", "py4j"}


def test_the_data_report_loads_neither_torch_nor_spark_and_matplotlib_for_a_chart_only() -> None:
    assert not _loaded_by("trainer.reporting.data") & {"torch", "pyspark", "matplotlib"}
