"""Models of sequences: what they learn from, what each position sees, and their layers against formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, example_model, example_section
from tests.unit.trainer.models.item_examples import event_inputs, item_batch, user_inputs
from trainer.batch import Batch
from trainer.dense_work import dense_work
from trainer.errors import ConfigError
from trainer.models import bert4rec, gru4rec, hstu
from trainer.modules.sequence_model import SequenceModel
from trainer.modules.transformer import TransformerBlock
from trainer.registry import ModelInputs, models
from trainer.tasks import TrainingTask

MODELS = [name for name, entry in models().items() if issubclass(entry.build, SequenceModel)]
CAUSAL = [name for name in MODELS if name != "bert4rec"]
LISTS = [[], [5], [3, 4, 5], [2, 1, 6, 7], [8, 9]]
ROWS = len(LISTS)


def _model(name: str, inputs: ModelInputs | None = None, **keys: Any) -> SequenceModel:
    model = example_model(name, inputs or user_inputs(), **keys)
    assert isinstance(model, SequenceModel)
    return model


def _batch(lists: list[list[int]], items: list[int] | None = None, labels: list[int] | None = None) -> Batch:
    """Make rows of users, or with `items` rows of events; the last is padding."""
    rows = len(lists)
    columns = {"user": [[1]] * rows, "seen": lists}
    if items is not None:
        columns = {"user": [[1]] * rows, "item": [[item] for item in items], "seen": lists}
    lengths = [len(ids) for column in columns.values() for ids in column]
    values = [item for column in columns.values() for ids in column for item in ids]
    return Batch(
        dense_BF=torch.zeros(rows, 0),
        sparse=KeyedJaggedTensor.from_lengths_sync(
            list(columns), torch.tensor(values), torch.tensor(lengths)
        ),
        labels_BT=torch.tensor(labels or [1] * rows).float().unsqueeze(1),
        weights_B=torch.tensor([1.0] * (rows - 1) + [0.0]),
        rows_B=torch.tensor([*range(rows - 1), -1]),
    )


def _learnt(model: SequenceModel, batch: Batch) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Return inputs and targets of each row, and the place that is to tell each target."""
    found = model.examples(batch)
    inputs = found.inputs[model.history]
    lists = [[ids.tolist() for ids in jagged.to_dense()] for jagged in (inputs, found.targets)]
    return lists[0], lists[1], found.extra.tolist()


def test_every_known_item_of_a_user_but_the_first_is_to_be_found_by_those_before_it() -> None:
    inputs, targets, places = _learnt(_model("sasrec", max_length=3), _batch(LISTS))
    # Of the fourth row 1 is unknown: it is seen, but not asked for. The last row is padding.
    assert inputs == [[], [], [3, 4], [2, 1, 6], []]
    assert targets == [[], [], [4, 5], [6, 7], []]
    assert places == [0, 1, 1, 2]


def test_of_a_long_row_the_newest_items_count() -> None:
    inputs, targets, places = _learnt(_model("gru4rec", max_length=2), _batch([[2, 3, 4, 5, 6], []]))
    assert (inputs, targets, places) == ([[4, 5], []], [[5, 6], []], [0, 1])


@pytest.mark.parametrize(("positions", "targets"), [("all", [[4, 5, 9], []]), ("last", [[9], []])])
def test_an_event_stands_at_the_end_of_its_history(positions: str, targets: list[list[int]]) -> None:
    model = _model("hstu", event_inputs(), positions=positions)
    batch = _batch([[3, 4, 5], [6], [], [7, 8], [2]], items=[9, 9, 9, 1, 9], labels=[1, 0, 1, 1, 1])
    inputs, found, _ = _learnt(model, batch)
    # A row with label 0 teaches nothing, nor does one without a history; an unknown item is not asked for.
    assert inputs == [[3, 4, 5], [], [], [7, 8], []]
    assert found == [targets[0], [], [], [8] if positions == "all" else [], []]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_item_changes_no_earlier_query(name: str) -> None:
    model = _model(name).train()
    queries = []
    for last in (6, 7):
        batch = _batch([[2, 3, 4, 5, last, 8], [9, 10, 11], []])
        examples = model.examples(batch)
        found = model.lookup(batch.sparse, examples.inputs)
        torch.manual_seed(1)
        queries.append(model.queries(found, batch, examples))
    same = torch.isclose(queries[0], queries[1], atol=1e-6).all(dim=1)
    assert same.tolist() == [True, True, True, True, False, True, True]


def test_a_masked_item_changes_no_query() -> None:
    model = _model("bert4rec", mask_share=0.5).train()
    torch.manual_seed(2)
    batch = _batch([[2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12, 13], []])
    examples = model.examples(batch)
    before = model.queries(model.lookup(batch.sparse, examples.inputs), batch, examples)
    masked, _ = examples.extra
    for is_masked, same in ((True, True), (False, False)):
        ids = examples.inputs["seen"].values()
        other = JaggedTensor(
            torch.where(masked.values() == is_masked, 14, ids), lengths=examples.inputs["seen"].lengths()
        )
        torch.manual_seed(2)
        after = model.queries(model.lookup(batch.sparse, {"seen": other}), batch, examples)
        assert torch.allclose(before, after, atol=1e-6) == same


def test_masks_follow_the_row_and_the_step_and_every_row_has_one() -> None:
    model = _model("bert4rec", mask_share=0.3, last_share=0.25)
    rows, length = 400, 10
    batch = _batch([list(range(2, 2 + length))] * rows)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(model.examples(batch).extra[0].values().reshape(rows - 1, length))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0][1:], masks[2][:-1])
    assert masks[0].any(dim=1).all()
    # A quarter has the last item alone, as have those without a mask: 0.7^10 of the others.
    last_only = (masks[0].sum(dim=1) == 1) & masks[0][:, -1]
    assert last_only.float().mean().item() == pytest.approx(0.27, abs=0.07)
    assert masks[0][~last_only].float().mean().item() == pytest.approx(0.31, abs=0.03)


def test_bert4rec_asks_for_the_next_item_by_a_mask_behind_the_newest() -> None:
    model = _model("bert4rec", max_length=4, positions="last").eval()
    batch = _batch([[2, 3, 4, 5, 6], []])
    # In training the last of [4, 5, 6, 7] is masked: the same question.
    asked = _batch([[4, 5, 6, 7], [2]])
    examples = model.examples(asked)
    expected = model.queries(model.lookup(asked.sparse, examples.inputs), asked, examples)
    assert torch.allclose(model.row_queries(batch)[:1], expected, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_query_sees_the_newest_of_the_history(name: str) -> None:
    model = _model(name, max_length=3).eval()
    queries_BX = model.row_queries(_batch([[], [2, 3, 4, 5], [9, 3, 4, 5], [3, 4, 5, 6], [3]]))
    assert torch.isfinite(queries_BX).all()
    short = model.row_queries(_batch([[3, 4, 5], [2]]))
    if name != "bert4rec":  # which has a mask among its 3
        assert torch.allclose(queries_BX[1], short[0], atol=1e-6)
        assert not queries_BX[0].any()
    assert torch.allclose(queries_BX[1], queries_BX[2], atol=1e-6)
    assert not torch.allclose(queries_BX[1], queries_BX[3], atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_events_are_scored_by_the_query_of_their_history(name: str) -> None:
    model, batch = _model(name, event_inputs()).eval(), item_batch(event_inputs(), 12)
    ids, items_NX = model.item_share(batch)
    scores = model.scores(model.row_queries(batch), items_NX)
    known = batch.sparse["item"].values() >= 2
    expected = scores[torch.arange(12)[known], batch.sparse["item"].values()[known] - ids[0]]
    assert torch.allclose(model(batch)[known, 0], expected, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_to_learn_from_is_a_loss_of_zero(name: str) -> None:
    task = TrainingTask(_model(name))
    empty = _batch([[], [], []])
    lone = replace(_batch([[2, 3], [4, 5, 6]]), weights_B=torch.zeros(2))
    for batch in (empty, lone):
        loss, _ = task(batch)
        loss.backward()
        assert loss.item() == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in task.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_chain_is_found(name: str) -> None:
    """Each item is followed by one other: the model must name it, in bf16 as well."""
    following = (torch.randperm(NUM_EMBEDDINGS - 2, generator=torch.Generator().manual_seed(0)) + 2).tolist()
    lists = []
    for start in range(2, NUM_EMBEDDINGS):
        lists.append([start])
        for _ in range(7):
            lists[-1].append(following[lists[-1][-1] - 2])
    keys: dict[str, Any] = {"embedding_dim": 16, "objective": "softmax", "negatives": {}, "max_length": 8}
    if name == "bert4rec":
        keys["positions"] = "last"
    task = TrainingTask(_model(name, user_inputs(dim=16), **keys, dropout=0.1))
    batch = _batch([*lists, []])
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    for step in range(120 if name == "bert4rec" else 60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step < 5):
            loss, _ = task(batch)
        assert loss.dtype == torch.float32
        loss.backward()
        optimizer.step()
    model: Any = task.eval().model
    ids, items_NX = model.item_share(batch)
    asked = _batch([*([*ids[:-1]] for ids in lists), []])
    best = ids[model.scores(model.row_queries(asked), items_NX).argmax(dim=1)]
    hits = [found == ids[-1] for found, ids in zip(best.tolist(), lists, strict=False)]
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize(("norm", "activation"), [("first", "relu"), ("last", "gelu")])
def test_a_block_is_torchs_encoder_layer(norm: Any, activation: Any) -> None:
    torch.manual_seed(0)
    ours = TransformerBlock(8, 2, 12, 0.0, activation, norm)
    theirs = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation=activation, batch_first=True, norm_first=norm == "first"
    )
    pairs: dict[str, Any] = {
        "self_attn.in_proj_weight": ours.attention.into.weight,
        "self_attn.in_proj_bias": ours.attention.into.bias,
        "self_attn.out_proj.weight": ours.attention.out.weight,
        "self_attn.out_proj.bias": ours.attention.out.bias,
        "linear1.weight": ours.network[0].weight,
        "linear1.bias": ours.network[0].bias,
        "linear2.weight": ours.network[3].weight,
        "linear2.bias": ours.network[3].bias,
        "norm1.weight": ours.attention_norm.weight,
        "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.network_norm.weight,
        "norm2.bias": ours.network_norm.bias,
    }
    state = {key: value.detach() + torch.randn(value.shape) * 0.1 for key, value in pairs.items()}
    theirs.load_state_dict(state)
    for key, parameter in pairs.items():
        parameter.data.copy_(state[key])
    x_BLD, lengths_B = torch.randn(3, 5, 8), torch.tensor([5, 2, 1])
    padding = torch.arange(5) >= lengths_B.unsqueeze(1)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    real = ~padding
    assert torch.allclose(ours(x_BLD, None)[real], theirs(x_BLD, src_mask=causal)[real], atol=1e-5)
    expected = theirs(x_BLD, src_key_padding_mask=padding)
    assert torch.allclose(ours(x_BLD, lengths_B)[real], expected[real], atol=1e-5)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _norm(x: Any, weight: Any, bias: Any) -> Any:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def test_a_unit_of_hstu_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    dim, heads, longest = 6, 2, 5
    unit = hstu.Unit(dim, heads, longest, 0.0)
    for parameter in unit.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 4, dim)
    w = {key: value.double().numpy() for key, value in unit.state_dict().items()}
    rows = x[0].double().numpy()
    parts = [w["into.weight"] @ _norm(row, w["norm.weight"], w["norm.bias"]) for row in rows]
    u, v, q, k = np.stack([part * _sigmoid(part) for part in parts]).reshape(4, 4, dim).transpose(1, 0, 2)
    for i in range(4):
        attended = np.zeros(dim)
        for h in range(heads):
            own = slice(h * dim // heads, (h + 1) * dim // heads)
            for j in range(i + 1):
                score = q[i, own] @ k[j, own] + w["distance.weight"][i - j, 0]
                attended[own] += score * _sigmoid(score) / longest * v[j, own]
        gated = _norm(attended, w["attended_norm.weight"], w["attended_norm.bias"]) * u[i]
        expected = rows[i] + w["out.weight"] @ gated + w["out.bias"]
        assert np.allclose(unit(x)[0, i].detach(), expected, atol=1e-4)


def test_a_recurrent_layer_is_the_papers_formula_and_takes_weights_that_are_put_in() -> None:
    torch.manual_seed(0)
    layer, x = gru4rec.Gru(3, 4, batch_first=True), torch.randn(1, 5, 3)
    layer(x)
    for name in list(dict(layer.named_parameters())):
        layer._parameters[name] = nn.Parameter(torch.randn(layer._parameters[name].shape))  # type: ignore[union-attr]
    w = {key: value.double().numpy() for key, value in layer.state_dict().items()}
    state, found = np.zeros(4), layer(x)[0][0].detach()
    for place, row in enumerate(x[0].double().numpy()):
        taken = (w["weight_ih_l0"] @ row + w["bias_ih_l0"]).reshape(3, 4)
        kept = (w["weight_hh_l0"] @ state + w["bias_hh_l0"]).reshape(3, 4)
        reset, update = _sigmoid(taken[0] + kept[0]), _sigmoid(taken[1] + kept[1])
        state = (1 - update) * np.tanh(taken[2] + reset * kept[2]) + update * state
        assert np.allclose(found[place], state, atol=1e-5)


def test_sasrec_adds_positions_counted_from_the_newest_item_to_scaled_vectors() -> None:
    model: Any = _model("sasrec", num_layers=1, max_length=4).eval()
    seen: list[Tensor] = []
    model.encoder.dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.row_queries(_batch([[5, 6, 7], [8]]))
    state = model.state_dict()
    items = state["lookup.embedding_collection.embeddings.item.weight"]
    positions = state["encoder.position.weight"]
    assert torch.allclose(seen[0][0], items[[5, 6, 7]] * 8**0.5 + positions[[2, 1, 0]], atol=1e-6)


def test_a_model_without_one_history_says_what_to_name() -> None:
    inputs = user_inputs()
    two = replace(
        inputs,
        features=("user", "seen", "bought"),
        tables=(inputs.tables[0], replace(inputs.tables[1], features=("seen", "bought"))),
        lists=frozenset({"seen", "bought"}),
    )
    with pytest.raises(ConfigError, match="which list holds the items of a row") as refused:
        example_model("sasrec", two)
    assert "model.history: bought" in str(refused.value)
    assert _model("sasrec", two, history="bought").history == "bought"
    with pytest.raises(ConfigError, match="same number of the item vectors' columns"):
        example_model("bert4rec", inputs, num_heads=3)
    alone = ModelInputs(0, ("user",), (replace(inputs.tables[0], pooling="none"),))
    with pytest.raises(ConfigError, match=r"needs a list of each row's items(.|\n)*data\.user_rows"):
        example_model("sasrec", alone)


def test_masked_items_have_the_masks_vector() -> None:
    encoder = _model("bert4rec").eval().encoder
    assert isinstance(encoder, bert4rec.Encoder)
    x_BLD, masked_BL1 = torch.randn(1, 3, 8), torch.tensor([[[False], [True], [False]]])
    replaced = x_BLD.clone()
    replaced[0, 1] = encoder.mask.weight[0]
    none = torch.zeros_like(masked_BL1)
    lengths_B = torch.tensor([3])
    assert torch.allclose(encoder(x_BLD, lengths_B, masked_BL1), encoder(replaced, lengths_B, none))


def test_the_work_of_a_row_holds_that_of_attention() -> None:
    inputs, length, dim = user_inputs(), 9, 8
    tables = (inputs.tables[0], replace(inputs.tables[1], pooling_factors=(float(length),)))
    user = replace(tables[0], pooling_factors=(1.0,))
    section = example_section("sasrec")
    work = dense_work(section.completed(replace(inputs, tables=(user, tables[1]))), section)
    places = length - 1  # the last item is only to be found
    block = 2 * places * 6 * dim**2 + 4 * places**2 * dim
    scores = 2 * 2 * places * dim  # of each item to be found, and of the one drawn beside it
    assert work.forward_flops == pytest.approx(2 * block + scores, rel=1e-3)
