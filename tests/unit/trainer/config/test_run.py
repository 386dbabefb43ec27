"""Run configs: strict keys and values, overrides, rules over sections, shipped files."""

import typing
from pathlib import Path

import pytest

from trainer.config import RunConfig, TableCommunicationConfig
from trainer.config.plan import ComputeKernel, ShardingType
from trainer.config.source import expand_range, java_charset
from trainer.config.yaml_text import parse_yaml
from trainer.errors import ConfigError

FOLDER = Path(__file__).parents[4] / "jobs" / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if not path.stem.endswith("_base")]
SMALL = """
name: small
data: {source: {path: rows.csv, header: true}, label: {column: y}}
features: {sparse: [{columns: "C*", ops: [fill: "", vocabulary: {min_count: 2}]}]}
model: {name: dlrm}
"""
NEGATIVES_FILE = "data.negatives={user: u, item: i, train: {file: {path: a, "


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_survive_their_own_yaml(path: Path) -> None:
    run = RunConfig.load(path)
    assert run.name == path.stem
    assert RunConfig.from_dict(parse_yaml(run.to_yaml())) == run


@pytest.mark.parametrize(
    ("override", "place", "hint"),
    [
        ("train.max_step=3", "train.max_step", "did you mean `max_steps`?"),
        ("features.sparse.0.poling=sum", "features.sparse.0.poling", "did you mean `pooling`?"),
        ("tables.C*.embeding_dim=3", "tables.C*.embeding_dim", "did you mean `embedding_dim`?"),
        ("data.split.method=randm", "data.split.method", "did you mean `random`?"),
        ("train.early_stopping.patienc=3", "train.early_stopping.patienc", "did you mean `patience`?"),
    ],
)
def test_a_misspelt_key_names_its_path_and_the_nearest_key(
    config_file: Path, override: str, place: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(config_file, [override])
    assert place in caught.value.where
    assert hint in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("train.global_batch_size=0", "greater than or equal to 1"),
        ("data.split.fractions=[0.5, 0.1, 0.1]", "sum to 1"),
        ("data.split.method=time", "needs `column`"),
        ("data.source.table=ads.clicks", "not both"),
        ("name=a/b", "pattern"),
        ("train.dense_optimizer.learning_rate=.inf", "finite number"),
        ("train.dense_optimizer.betas=[1.5, 2]", "less than 1"),
        ("train.embedding_optimizer.betas=[-0.1, 0.9]", "greater than or equal to 0"),
        ("seed=2147483648", "less than or equal to 2147483647"),
        ("data.split.seed=2147483648", "less than or equal to 2147483647"),
        ("plan.sharding_types=[]", "at least 1 item"),
        ("data.keep=[a, b, a]", "`keep` names a column twice: `a`"),
        ("data.keep=[a, A]", "`a` and `A`"),
        ("data.source.encoding=utf-9", "unknown encoding `utf-9`"),
        ("data.source.encoding=rot13", "unknown encoding"),
        ("data.source.delimiter=''", "at least 1 character"),
        ("data.source={path: a.tsv, columns: [I13..I1]}", r"write `I1\.\.I13`"),
        ("data.source={path: a.tsv, columns: [a, I1..I3, I2]}", "names a column twice: `I2`"),
        ("data.source.format=parquet", "`header` means nothing for `format: parquet`"),
        ("data.source={table: clicks, delimiter: ','}", "`delimiter` means nothing for a table"),
        ("data.source={path: a, format: tsv, multi_line: true}", "`multi_line` means nothing"),
        ("data.source={path: a, format: json, null_values: [NA]}", "`null_values` means nothing"),
        ("data.source={path: a, format: tsv, escape: x}", "`escape` means nothing"),
        ("data.source={path: a.csv, header: true, escape: '\\\\'}", "`escape` is one character"),
        ("data.source={path: a.csv, header: true, escape: x, delimiter: '::'}", "of several characters"),
        ("data.source={table: clicks, row_number: n}", "`row_number` means nothing for a table"),
        ("data.split.method=leave_last", "needs `leave_last`"),
        ("data.split.leave_last={user: u, time: t}", "means nothing for `method: random`"),
        (
            "data.split={method: leave_last, leave_last: {user: u, time: t, test: 0, valid: 0}}",
            "nothing is left",
        ),
        ("data.negatives={user: u, item: i, train: {alpha: 1}}", "give `per_positive` or `file`"),
        (NEGATIVES_FILE + "format: ncf}, per_positive: 3}}", "leave out `per_positive`"),
        (NEGATIVES_FILE + "format: csv}, alpha: 1}}", "nothing is drawn with a `file`: leave out `alpha`"),
    ],
)
def test_a_wrong_value_names_the_rule(config_file: Path, override: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        RunConfig.load(config_file, [override])


@pytest.mark.parametrize(
    ("override", "got", "fix"),
    [
        ("train.epochs=true", "true (true or false)", None),
        ("train.epochs='3'", '"3" (text)', "write 3 without quotes"),
        ("train.epochs=many", '"many" (text)', None),
        ("train.max_steps=1e3", "1000.0 (number with a fraction)", "write 1000"),
        ("train.max_steps=2.5", "2.5 (number with a fraction)", None),
        ("train.dense_optimizer.eps='1e-8'", '"1e-8" (text)', "write 1e-8 without quotes"),
        ("train.dense_optimizer.eps=true", "true (true or false)", None),
        ("data.source.header=1", "1 (whole number)", None),
        ("data.source.header='false'", '"false" (text)', "write false without quotes"),
        ("data.root=2024", "2024 (whole number)", 'write it in quotes: "2024"'),
    ],
)
def test_a_value_of_another_type_is_not_converted(
    config_file: Path, override: str, got: str, fix: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(config_file, [override])
    assert caught.value.where.endswith(f": {override.partition('=')[0]}")
    assert caught.value.got == got
    assert caught.value.fixes == ((fix,) if fix else ())


def test_a_whole_number_may_stand_for_a_number_with_a_fraction(config_file: Path) -> None:
    run = RunConfig.load(config_file, ["train.dense_optimizer.eps=1", "data.split.fractions=[1, 0, 0]"])
    assert run.train.dense_optimizer.eps == 1.0
    assert run.data.split.fractions == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("key", ["plan.sharding_types", "tables.C*.sharding_types"])
def test_a_misspelt_sharding_type_gets_the_nearest_one(config_file: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean `row_wise`\?") as caught:
        RunConfig.load(config_file, [f"{key}=[table_wise, rowwise]"])
    assert caught.value.where.endswith(f": {key}.1")


def test_a_misspelt_kernel_gets_the_nearest_one(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean `fused_uvm_caching`\?"):
        RunConfig.load(config_file, ["tables.C*.compute_kernels=[fused_uvm_cache]"])


def test_sharding_types_and_kernels_are_those_of_the_sharders() -> None:
    from sharding.sharders import SHARDING_TYPES, kernels_of  # imports torch

    assert typing.get_args(ShardingType) == SHARDING_TYPES
    offered = {kernel for device in ("cpu", "cuda") for kernel in kernels_of(SHARDING_TYPES, device)}
    assert set(typing.get_args(ComputeKernel)) == offered


def test_precisions_between_ranks_are_those_of_the_codecs() -> None:
    from sharding.communication import BACKWARD_PRECISIONS, FORWARD_PRECISIONS  # imports torch

    fields = TableCommunicationConfig.model_fields
    assert typing.get_args(fields["forward"].annotation) == FORWARD_PRECISIONS
    assert typing.get_args(fields["backward"].annotation) == BACKWARD_PRECISIONS


@pytest.mark.parametrize(
    ("rows", "lanes", "near"), [(100, 32, [96, 128]), (10, 32, [32]), (2049, 1024, [2048, 3072])]
)
def test_a_batch_size_that_the_lanes_do_not_divide_names_the_nearest_ones(
    config_file: Path, rows: int, lanes: int, near: list[int]
) -> None:
    overrides = [f"train.global_batch_size={rows}", f"data.num_lanes={lanes}"]
    with pytest.raises(ConfigError, match=r"multiple of `data\.num_lanes`") as caught:
        RunConfig.load(config_file, overrides)
    assert caught.value.where == f"--set {overrides[0]}: train.global_batch_size"
    assert caught.value.got == f"{rows} rows for {lanes} lanes"
    assert caught.value.fixes == tuple(f"train.global_batch_size: {size}" for size in near)
    for size in near:
        RunConfig.load(config_file, [*overrides, f"train.global_batch_size={size}"])


def test_every_finding_is_reported_at_once(config_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(config_file, ["train.epoch=1", "data.num_lane=1"])
    assert "train.epoch" in str(caught.value)
    assert "data.num_lane" in str(caught.value)


def test_overrides_reach_lists_and_new_sections(config_file: Path) -> None:
    run = RunConfig.load(
        config_file,
        ["features.sparse.0.embedding_dim=8", "train.early_stopping.metric=ne", "tables.C*.data_type=fp16"],
    )
    assert run.features.sparse[0].embedding_dim == 8
    assert run.train.early_stopping is not None
    assert run.train.early_stopping.metric == "ne"
    assert run.table_config("C7").data_type == "fp16"
    assert run.table_config("D7").data_type is None


@pytest.mark.parametrize("override", ["train.epochs", "=3", "features.sparse.9.name=x", "name.first=x"])
def test_an_override_that_leads_nowhere_is_an_error(config_file: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        RunConfig.load(config_file, [override])


def test_later_globs_win(config_file: Path) -> None:
    run = RunConfig.load(
        config_file, ["tables={'*': {embedding_dim: 4, data_type: fp16}, 'C1': {embedding_dim: 8}}"]
    )
    assert run.table_config("C1").embedding_dim == 8
    assert run.table_config("C1").data_type == "fp16"
    assert run.table_config("C2").embedding_dim == 4


def test_op_short_forms_mean_the_same(config_file: Path) -> None:
    fill, vocabulary = RunConfig.load(config_file).features.sparse[0].ops
    assert (fill.name, fill.value) == ("fill", "")
    assert (vocabulary.name, vocabulary.params) == ("vocabulary", {"min_count": 2})


@pytest.mark.parametrize("text", ["a: [", "- 1", "just words"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        RunConfig.load(path)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"not UTF-8(.|\n)*rows\.yaml"):
        RunConfig.load(path)


def test_a_key_that_stands_twice_names_file_line_and_path(config_file: Path) -> None:
    config_file.write_text(SMALL + "train:\n  epochs: 1\n  max_steps: 9\n  epochs: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(config_file)
    assert caught.value.where == f"{config_file}:9: train.epochs"
    assert caught.value.got == "lines 7 and 9"


def test_a_key_that_stands_twice_in_an_override_is_an_error(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set train=(.|\n)*epochs"):
        RunConfig.load(config_file, ["train={epochs: 1, epochs: 2}"])


def test_an_override_changes_one_place_of_two_that_share_an_anchor(config_file: Path) -> None:
    config_file.write_text(SMALL + "tables: {a: &t {data_type: fp32}, b: *t}\n", encoding="utf-8")
    run = RunConfig.load(config_file, ["tables.a.data_type=fp16"])
    assert [run.table_config(name).data_type for name in "ab"] == ["fp16", "fp32"]


def test_a_missing_file_lists_the_configs_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"criteo_dlrm\.yaml"):
        RunConfig.load(tmp_path / "nothing.yaml")


def test_column_ranges_expand() -> None:
    assert expand_range("I1..I3") == ["I1", "I2", "I3"]
    assert expand_range("I08..I10") == ["I08", "I09", "I10"]
    assert expand_range("label") == ["label"]


def test_the_preparation_hash_covers_ops_but_not_tables_or_places(config_file: Path) -> None:
    run = RunConfig.load(config_file)
    same = run.override("features.sparse.0.embedding_dim=8", "data.root=/elsewhere", "train.epochs=9")
    other = run.override("features.sparse.0.ops.1.params.min_count=3")
    assert same.preparation_hash() == run.preparation_hash() != other.preparation_hash()


def test_only_the_seed_of_the_split_asks_for_a_new_prepare(config_file: Path) -> None:
    run = RunConfig.load(config_file)
    assert run.override("seed=2").preparation_hash() == run.preparation_hash()
    assert run.override("data.split.seed=2").preparation_hash() != run.preparation_hash()


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("2024", None),
        ("/data/run #7", "part #1.csv"),
        ("C: drive", "a: b.csv"),
        ("s3a://bucket/{a, b}", "[x].csv"),
        ("no", "2024-01-31"),
        (" x ", "1e3"),
        ("~", "010"),
    ],
)
def test_a_source_is_taken_as_it_is_and_survives_yaml(config_file: Path, root: str, path: str | None) -> None:
    run = RunConfig.load(config_file)
    moved = run.with_source(root, path)
    assert moved.data.root == root
    assert moved.data.source is not None
    assert moved.data.source.path == (path or "rows.csv")
    assert moved.data.source.header
    assert moved.preparation_hash() == run.preparation_hash()
    assert RunConfig.from_dict(parse_yaml(moved.to_yaml())) == moved


def test_a_source_file_takes_the_place_of_a_table_but_a_root_cannot(config_file: Path) -> None:
    run = RunConfig.load(config_file, ["data.source={table: ads.clicks}"])
    moved = run.with_source("raw", "rows.parquet")
    assert moved.data.source is not None
    assert (moved.data.source.path, moved.data.source.table) == ("rows.parquet", None)
    with pytest.raises(ConfigError, match=r"ads\.clicks"):
        run.with_source("raw")


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("a.parquet", ["/first/a.parquet"]),
        (["/b/a.parquet", "c"], ["/b/a.parquet", "/first/c"]),
        ("s3a://bucket/v", ["s3a://bucket/v"]),
        (None, []),
    ],
)
def test_another_root_leaves_vectors_where_they_are(
    config_file: Path, path: typing.Any, stays: list[str]
) -> None:
    source = {"table": "ads.vectors"} if path is None else {"path": path}
    vectors = {"source": source, "on": "user_id", "column": "embedding"}
    values = RunConfig.load(config_file, ["data.root=/first"]).as_dict()
    values["features"]["dense"].append({"name": "v", "vectors": vectors})
    run = RunConfig.from_dict(values)
    moved = run.with_source("raw")
    found = moved.features.dense[-1].vectors
    assert found is not None
    assert (found.source.paths(), found.source.table) == (stays, source.get("table"))
    assert moved.preparation_hash() == run.preparation_hash()


@pytest.mark.parametrize("path", ["/data/rows.csv", "s3a://bucket/rows.csv", "[a.csv, dbfs:/Volumes/x.csv]"])
def test_a_root_cannot_move_an_absolute_source(config_file: Path, path: str) -> None:
    run = RunConfig.load(config_file, [f"data.source.path={path}"])
    with pytest.raises(ConfigError, match="another root changes nothing") as caught:
        run.with_source("raw")
    assert caught.value.where == "data.source.path"
    assert run.with_source("raw", "rows.csv").data.root == "raw"


@pytest.mark.parametrize(
    ("encoding", "java"),
    [("latin-1", "ISO-8859-1"), ("utf8", "UTF-8"), ("ascii", "US-ASCII"), ("cp1252",) * 2],
)
def test_encodings_go_to_spark_under_the_names_it_knows(encoding: str, java: str) -> None:
    assert java_charset(encoding) == java


def test_a_tab_may_be_written_without_quotes(config_file: Path) -> None:
    source = RunConfig.load(config_file, [r"data.source.delimiter=\t"]).data.source
    assert source is not None
    assert source.delimiter == "\t"


def test_a_source_file_is_added_where_there_was_none(config_file: Path) -> None:
    run = RunConfig.load(config_file, ["data.source=null"])
    moved = run.with_source("raw", "rows.parquet")
    assert moved.data.source is not None
    assert moved.data.source.path == "rows.parquet"
    assert run.with_source("raw").data.source is None


def test_a_missing_config_names_those_that_are_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "clicks.yml").touch()
    with pytest.raises(ConfigError) as caught:
        RunConfig.load("mine/click.yaml")
    assert caught.value.fixes == ("did you mean `mine/clicks.yml`?",)
    with pytest.raises(ConfigError) as caught:
        RunConfig.load("tiny_locl.yaml")
    assert len(caught.value.fixes) == 1
    assert "jobs/configs/tiny_local.yaml`?" in caught.value.fixes[0]
    with pytest.raises(ConfigError, match=r"choose one of: .*criteo_dlrm\.yaml") as caught:
        RunConfig.load("mine/xyz")
    assert "mine/clicks.yml" in caught.value.fixes[0]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_groups_of_ranks_belong_to_hsdp(config_file: Path, parallel: str) -> None:
    overrides = [f"train.dense_parallel={parallel}", "train.dense_shard_group_size=2"]
    with pytest.raises(ConfigError, match=f"is for `dense_parallel: hsdp`, not for `{parallel}`"):
        RunConfig.load(config_file, overrides)
    assert RunConfig.load(config_file, ["train.dense_parallel=hsdp", overrides[1]])


def test_syncs_belong_to_groups_of_tables(config_file: Path) -> None:
    rarely = "train.table_sync_every_steps=5"
    with pytest.raises(ConfigError, match="nothing to average") as caught:
        RunConfig.load(config_file, [rarely])
    assert caught.value.where == f"--set {rarely}: train.table_sync_every_steps"
    assert RunConfig.load(config_file, [rarely, "train.table_shard_group_size=2"])
