"""Configs that extend others: what they take over, which file an error names, chains that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import RunConfig
from trainer.errors import ConfigError

BASE = """
data: {source: {path: rows.csv, header: true}, label: {column: y}, keep: [a, b]}
features: {sparse: [{columns: "C*", ops: [vocabulary]}], dense: [{columns: "I*"}]}
train: {epochs: 3, dense_optimizer: {name: sgd, learning_rate: 0.1}}
"""
DLRM = "extends: base.yaml\nname: mine\nmodel: {name: dlrm, dropout: 0.2}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, base=BASE, dlrm=DLRM)
    return tmp_path


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{list(files)[-1]}.yaml"


def refused(path: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(path, overrides)
    return caught.value


def test_mappings_are_merged_while_lists_and_values_take_the_place_of_the_others(folder: Path) -> None:
    more = "train: {epochs: 5, dense_optimizer: {momentum: 0.9}}\ndata: {keep: [c], source: null}\n"
    run = RunConfig.load(write(folder, more=DLRM + more), ["train.max_steps=7"])
    assert (run.name, run.model.name, run.data.label.column) == ("mine", "dlrm", "y")
    assert (run.train.epochs, run.train.max_steps) == (5, 7)
    optimizer = run.train.dense_optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.1, 0.9)
    assert (run.data.keep, run.data.source) == (["c"], None)
    assert [len(run.features.sparse), len(run.features.dense)] == [1, 1]


def test_a_chain_equals_one_file_and_the_folder_of_each_file_counts(folder: Path) -> None:
    (folder / "inner").mkdir()
    path = folder / "inner" / "wider.yaml"
    path.write_text("extends: ../dlrm.yaml\nmodel: {embedding_dim: 32}\n", encoding="utf-8")
    whole = "name: mine\nmodel: {name: dlrm, dropout: 0.2, embedding_dim: 32}\n" + BASE
    assert RunConfig.load(path) == RunConfig.load(write(folder, whole=whole))


def test_another_model_takes_nothing_over_from_the_model_below(folder: Path) -> None:
    run = RunConfig.load(write(folder, fm="extends: dlrm.yaml\nmodel: {name: fm, embedding_dim: 4}\n"))
    assert (run.model.name, run.model.params()) == ("fm", {"embedding_dim": 4})
    same = RunConfig.load(write(folder, same="extends: dlrm.yaml\nmodel: {name: dlrm, embedding_dim: 4}\n"))
    assert same.model.params() == {"dropout": 0.2, "embedding_dim": 4}


def test_the_resolved_config_stands_alone(folder: Path, tmp_path: Path) -> None:
    run = RunConfig.load(folder / "dlrm.yaml")
    assert RunConfig.load(write(tmp_path, resolved=run.to_yaml())) == run
    assert "extends" not in run.as_dict()


@pytest.mark.parametrize(
    ("base", "own", "file", "key"),
    [
        ("", "train: {epoch: 5}\n", "dlrm", "train.epoch"),
        ("plan: {reserve: x}\n", "", "base", "plan.reserve"),
        ("plan: {reserve: 1}\n", "plan: {reserve: 2}\n", "dlrm", "plan.reserve"),
        ("tables: {a: {data_type: fp7}}\n", "tables: {b: {data_type: fp16}}\n", "base", "tables.a.data_type"),
        ("", "features: {sparse: [{columns: a}, {column: b}]}\n", "dlrm", "features.sparse.1.column"),
        ("recommend: {user: u}\n", "recommend: {title: t}\n", "dlrm", "recommend.item"),
    ],
)
def test_an_error_names_the_file_that_the_key_stands_in(
    folder: Path, base: str, own: str, file: str, key: str
) -> None:
    error = refused(write(folder, base=BASE + base, dlrm=DLRM + own))
    assert error.where == f"{folder / file}.yaml: {key}"


def test_an_override_is_named_before_both_files(folder: Path) -> None:
    error = refused(folder / "dlrm.yaml", "train.epochs=0")
    assert error.where == "--set train.epochs=0: train.epochs"


def test_a_missing_key_and_a_file_that_is_not_whole_name_the_file_that_was_asked_for(folder: Path) -> None:
    assert refused(folder / "base.yaml").where == f"{folder / 'base.yaml'}: name"
    no_name = write(folder, nameless="extends: base.yaml\nmodel: {name: dlrm}\n")
    assert refused(no_name).where == f"{no_name}: name"


def test_a_file_that_is_not_there_names_the_key_and_the_nearest_file(folder: Path) -> None:
    path = write(folder, mine="extends: bsae.yaml\nname: mine\n")
    error = refused(path)
    assert error.where == f"{path}: extends"
    assert error.fixes == ("did you mean `base.yaml`?",)


@pytest.mark.parametrize("value", ["[base.yaml, dlrm.yaml]", "3", "", "{base: yaml}"])
def test_extends_is_the_path_of_one_file(folder: Path, value: str) -> None:
    assert refused(write(folder, mine=f"extends: {value}\nname: mine\n")).what.endswith("path of one file")


def test_a_circle_is_shown(folder: Path) -> None:
    write(folder, first="extends: second.yaml\n", second="extends: third.yaml\n")
    error = refused(write(folder, third="extends: second.yaml\n"))
    assert error.got == "third.yaml -> second.yaml -> third.yaml"
    assert error.where == f"{folder / 'second.yaml'}: extends"
    assert refused(write(folder, own="extends: own.yaml\n")).got == "own.yaml -> own.yaml"


def test_yaml_errors_of_an_extended_file_name_it(folder: Path) -> None:
    write(folder, base="name: a\nname: b\n")
    assert refused(folder / "dlrm.yaml").where == f"{folder / 'base.yaml'}:2: name"


def test_extends_is_for_files_alone(folder: Path) -> None:
    assert refused(folder / "dlrm.yaml", "extends=base.yaml").where == "--set extends=base.yaml: extends"
