"""Steps ahead of one another train on the same batches in the same order as steps one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.stepping import PlainSteps, SparseDistSteps, StepParts

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
    return SparseDistSteps(parts, model, CPU, required=False)


@pytest.mark.parametrize("model", [Traced(), Untraced()], ids=["traced", "untraced"])
@pytest.mark.parametrize("pause_after", [None, 0, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_steps_are_the_same(model: Traced, pause_after: int | None, count: int) -> None:
    expected = trained(model, plain, count)
    assert [event[:2] for event in expected[:2]] == [("begin", 1.0), ("end", 1.0)]
    assert len(expected) == 2 * count
    assert trained(model, ahead, count, pause_after) == expected


def test_micro_batches_add_up_to_the_batch() -> None:
    whole = trained(Traced(), plain)
    halves = trained(Traced(), lambda parts, _: PlainSteps(parts, micro_batches=2))
    assert [event[-1] for event in halves] == pytest.approx([event[-1] for event in whole])


def test_a_model_that_cannot_be_traced_is_refused_where_the_pipeline_must_be() -> None:
    def required(parts: StepParts, model: nn.Module) -> SparseDistSteps:
        return SparseDistSteps(parts, model, CPU, required=True)

    with pytest.raises(ConfigError, match=r"torch\.fx cannot trace the model") as error:
        trained(Untraced(), required)
    assert error.value.where == "train.pipeline"


def test_an_error_of_a_later_step_is_raised_as_it_is() -> None:
    seen = []

    def failing(parts: StepParts, model: nn.Module) -> SparseDistSteps:
        def loss(batch: Batch) -> Any:
            seen.append(batch)
            if len(seen) == 3:
                raise ValueError("of step 3")
            return model(batch)

        return SparseDistSteps(
            StepParts(parts.begin, parts.looked_up, loss, parts.end), model, CPU, required=False
        )

    with pytest.raises(ValueError, match="of step 3"):
        trained(Traced(), failing)
    assert len(seen) == 3
