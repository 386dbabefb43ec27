"""Generated pages are current, commands on pages exist, and the site needs nothing from elsewhere."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import build_parser
from tests.docs.pages import ROOT, SHELL, Block, blocks, commands, pages
from trainer.config import RunConfig

ALL_BLOCKS = [block for page in pages() for block in blocks(page)]
SHELL_BLOCKS = [block for block in ALL_BLOCKS if block.language in SHELL]

# `shardrec synth` writes a config into each of these when the examples run.
SYNTHETIC_FOLDERS = {
    words[words.index("--out") + 1]
    for block in SHELL_BLOCKS
    for words in commands(block)
    if words[:2] == ["shardrec", "synth"]
}


def _where(block: Block) -> str:
    return block.where


def test_paths_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:bash )?((?:\.ci|docs|jobs|sharding|tests|trainer)/[\w./-]*)`", text))
    assert {"trainer/features/", "sharding/hardware.py"} <= named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    folder = ROOT / "trainer" / "features"
    ops = {path.name for path in folder.glob("*.py") if "\n@feature_op(" in path.read_text(encoding="utf-8")}
    assert ops == set(re.findall(r"`(\w+_ops\.py)`", text))


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=_where)
def test_commands_in_shell_blocks_exist(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in commands(block):
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert targets, f"{block.where}: make without a target"
            for target in targets:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{block.where}: no `make {target}`"
        arguments = _shardrec_arguments(words)
        if arguments is None:
            continue
        try:
            parsed = build_parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{block.where}: {' '.join(words)}\n{capsys.readouterr().err}")
        config = getattr(parsed, "config", None)
        written = {
            path for block in SHELL_BLOCKS for path in re.findall(r"^cat > (\S+)", block.text, re.MULTILINE)
        }
        if config is not None and str(Path(config).parent) not in SYNTHETIC_FOLDERS and config not in written:
            overrides = getattr(parsed, "overrides", [])
            RunConfig.load(ROOT / config, overrides)


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=_where)
def test_shell_blocks_that_call_shardrec_run_or_say_why_not(block: Block) -> None:
    if any(_shardrec_arguments(words) is not None for words in commands(block)):
        assert block.mark, f"{block.where}: put <!-- run --> or <!-- not run: REASON --> above the block"


def test_no_two_examples_train_into_one_run_folder() -> None:
    # The second one would be refused for the checkpoints of the first.
    folders = []
    for block in ALL_BLOCKS:
        if block.language == "python":
            folders += re.findall(r'^\w+ = train\(.*out="(.+?)"', block.text, re.MULTILINE)
        for words in commands(block) if block.language in SHELL else []:
            arguments = _shardrec_arguments(words)
            if arguments and arguments[0] == "train" and "--resume" not in arguments:
                parsed = build_parser().parse_args(arguments)
                folders.append(parsed.out or f"runs/{RunConfig.load(ROOT / parsed.config).name}")
    assert len(folders) > 8
    assert sorted(set(folders)) == sorted(folders)


def _shardrec_arguments(words: list[str]) -> list[str] | None:
    """Return what follows `shardrec`, or the command line under spark-submit or torchrun; else None."""
    if Path(words[0]).name == "shardrec":
        return words[1:]
    if words[0] == "spark-submit" and "jobs/cli.py" in words:
        return words[words.index("jobs/cli.py") + 1 :]
    if words[0] == "torchrun" and "jobs.cli" in words:
        return words[words.index("jobs.cli") + 1 :]
    return None


def test_the_readme_lists_every_verb() -> None:
    actions = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- verbs -->")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE) == list(actions[0].choices)


CONFIG_BLOCKS = [b for b in ALL_BLOCKS if b.language == "yaml" and re.search(r"^name:", b.text, re.MULTILINE)]


@pytest.mark.parametrize("block", CONFIG_BLOCKS, ids=_where)
def test_configs_on_pages_are_valid(block: Block, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs" / "configs", tmp_path / "configs")  # which they may extend
    page = tmp_path / "configs" / "page.yaml"
    page.write_text(block.text, encoding="utf-8")
    RunConfig.load(page)


def test_the_pip_lines_of_the_installation_page_name_what_pyproject_asks_for() -> None:
    page = ROOT / "docs" / "install.md"
    lines = [words for block in blocks(page) if block.language in SHELL for words in commands(block)]
    installed = {re.split(r"[=<>]", word)[0] for words in lines if words[0] == "pip" for word in words[2:]}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.search(r"^dependencies = \[$(.*?)^\]$", project, re.MULTILINE | re.DOTALL)
    assert asked
    names = re.findall(r'^  "([a-z0-9-]+)', asked[1], re.MULTILINE)
    assert len(names) > 10
    # What torchrec and petastorm are installed without.
    corrections = re.findall(
        r'^name = "(?:torchrec|petastorm)"$.*?^requires-dist = \[(.*?)\]$', project, re.M | re.S
    )
    assert len(corrections) == 2
    for text in corrections:
        names += re.findall(r'"([a-z0-9-]+)', text)
    assert [name for name in names if name not in installed] == []


def test_versions_on_the_installation_page_are_those_of_the_constraints() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[a-z][a-z-]+==[0-9.]+", text))
    assert {"torch==2.13.0", "torchrec==1.8.0"} <= named
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    assert named - set(pins) == set()


def test_the_glossary_explains_every_shape_suffix_of_the_source() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    legend = set(re.findall(r"^\| ([A-Z]) \|", glossary, re.MULTILINE))
    used = {
        letter
        for package in ("trainer", "sharding")
        for path in (ROOT / package).rglob("*.py")
        for suffix in re.findall(r"\b[a-z][a-z0-9_]*_([A-Z]{1,4})\b", path.read_text(encoding="utf-8"))
        for letter in suffix
    }
    assert {"B", "F", "D", "T"} <= used
    assert used - legend == set()


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the docs extra")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    outside = re.compile(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]+>|@import|fonts\.g"
    )
    found = {
        str(path.relative_to(tmp_path)): outside.findall(path.read_text(encoding="utf-8"))
        for path in (tmp_path / "site").rglob("*.html")
    }
    assert "site/index.html" in found
    assert {name: hits for name, hits in found.items() if hits} == {}
