"""Steps ahead of one another train on the same batches in the same order as steps one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from trainer.batch import Batch
from trainer.config.train import TrainConfig
from trainer.errors import ConfigError
from trainer.pipeline import PlainSteps, SparseDistSteps, StepParts, make_steps

CPU = torch.device("cpu")


class Traced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = self.linear(batch.dense_BF).square().mean()
        return loss, loss.detach()


class Untraced(Traced):
    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert len(batch.dense_BF)  # torch.fx knows no length.
        return super().forward(batch)


def batches(count: int) -> list[Batch]:
    none = KeyedJaggedTensor.from_lengths_sync(["s"], torch.zeros(0, dtype=torch.long), torch.zeros(2).long())
    rows = torch.arange(2)
    return [
        Batch(torch.full((2, 1), n + 1.0), none, torch.ones(2, 1), torch.ones(2), rows) for n in range(count)
    ]


def trained(model: Traced, make: Any, count: int = 5, pause_after: int | None = None) -> list[Any]:
    """Return what happened: numbers of batches as steps begin and end, and the losses."""
    torch.manual_seed(0)
    model.linear.reset_parameters()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    told: list[Any] = []

    def begin(batch: Batch) -> None:
        told.append(("begin", batch.dense_BF[0].item()))
        optimizer.zero_grad()

    def end(batch: Batch, reports: list[Tensor]) -> None:
        told.append(("end", batch.dense_BF[0].item(), torch.stack(reports).mean().item()))
        optimizer.step()

    steps = make(StepParts(begin, lambda batch: batch, model, end), model)
    for number, _ in enumerate(steps.over(iter(batches(count)))):
        if number == pause_after:
            with steps.paused(), torch.no_grad():
                model(batches(9)[-1])
    return told


def plain(parts: StepParts, _: nn.Module) -> PlainSteps:
    return PlainSteps(parts)


def ahead(parts: StepParts, model: nn.Module) -> SparseDistSteps:
    return SparseDistSteps(parts, model, CPU)


@pytest.mark.parametrize("pause_after", [None, 0, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_steps_are_the_same(pause_after: int | None, count: int) -> None:
    model = Traced()
    expected = trained(model, plain, count)
    assert [event[:2] for event in expected[:2]] == [("begin", 1.0), ("end", 1.0)]
    assert len(expected) == 2 * count
    assert trained(model, ahead, count, pause_after) == expected


def test_micro_batches_add_up_to_the_batch() -> None:
    whole = trained(Traced(), plain)
    halves = trained(Traced(), lambda parts, _: PlainSteps(parts, micro_batches=2))
    assert [event[-1] for event in halves] == pytest.approx([event[-1] for event in whole])


@pytest.mark.parametrize(
    ("settings", "device", "model", "expected"),
    [
        ({}, "cpu", Traced(), PlainSteps),
        ({"pipeline": "none"}, "cuda", Traced(), PlainSteps),
        ({"pipeline": "sparse_dist"}, "cpu", Traced(), SparseDistSteps),
        ({"pipeline": "sparse_dist"}, "cpu", Untraced(), r"torch\.fx cannot trace the model"),
        ({"pipeline": "sparse_dist", "micro_batches": 2}, "cpu", Traced(), "micro_batches"),
        ({}, "cuda", Untraced(), PlainSteps),
        ({"micro_batches": 2}, "cuda", Traced(), PlainSteps),
    ],
)
def test_which_steps_a_run_takes(
    settings: dict[str, Any], device: str, model: nn.Module, expected: Any
) -> None:
    parts = StepParts(lambda _: None, lambda batch: batch, model, lambda *_: None)

    def made() -> Any:
        return make_steps(parts, TrainConfig(**settings), model, torch.device(device), ids_change=False)

    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected) as error:
            made()
        assert error.value.where == "train.pipeline"
    else:
        assert isinstance(made(), expected)


@pytest.mark.parametrize("fails_at", [1, 3])
def test_an_error_of_a_step_is_raised_as_it_is(fails_at: int) -> None:
    seen = []

    def failing(parts: StepParts, model: nn.Module) -> SparseDistSteps:
        def loss(batch: Batch) -> Any:
            seen.append(batch)
            if len(seen) == fails_at:
                raise ValueError(f"of step {fails_at}")
            return model(batch)

        return SparseDistSteps(StepParts(parts.begin, parts.looked_up, loss, parts.end), model, CPU)

    with pytest.raises(ValueError, match=f"of step {fails_at}"):
        trained(Traced(), failing)
    assert len(seen) == fails_at
