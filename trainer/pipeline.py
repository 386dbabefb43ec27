"""Steps of one rank: one after another, or with the next batches on their way while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.train_pipeline.tracing import Tracer
from torchrec.distributed.train_pipeline.utils import _get_leaf_module_names

from trainer.batch import Batch
from trainer.config.train import TrainConfig
from trainer.errors import ConfigError


def make_steps(
    parts: StepParts, train: TrainConfig, task: nn.Module, device: torch.device, *, ids_change: bool
) -> PlainSteps | SparseDistSteps:
    """Return the steps of a run, the same on every rank.

    Args:
        parts: of a step.
        train: the config section.
        task: sharded.
        device: of the rank.
        ids_change: whether some table's ids come and go.

    Raises:
        ConfigError: batches cannot be sent ahead, and must be.
    """
    if train.pipeline == "none" or (train.pipeline == "auto" and device.type != "cuda"):
        return PlainSteps(parts, train.micro_batches)
    why = _untraceable(task)
    if train.micro_batches > 1:
        why = "a batch has several train.micro_batches"
    if ids_change:
        why = "tables.<glob>.ids make rows of ids step by step"
    if why is None:
        return SparseDistSteps(parts, task, device)
    if train.pipeline == "sparse_dist":
        raise ConfigError(
            f"no batch can be sent ahead: {why}",
            where="train.pipeline",
            got="sparse_dist",
            allowed=["auto", "none"],
        )
    print(f"train: no batch is sent ahead: {why}")  # noqa: T201 - goes to the log of the rank
    return PlainSteps(parts, train.micro_batches)


def _untraceable(task: nn.Module) -> str | None:
    """Return why TorchRec's pipeline cannot find the lookups of a model; None where it can."""
    model = task.module if isinstance(task, DistributedModelParallel) else task
    try:
        Tracer(leaf_modules=_get_leaf_module_names(model)).trace(model)
    except Exception as error:
        return f"torch.fx cannot trace the model ({str(error).split(chr(10))[0]})"
    return None


@dataclass(frozen=True)
class StepParts:
    """What a step does, in order; the pipeline calls the same parts at its own time.

    Attributes:
        begin: before the forward pass, with the batch in host memory.
        looked_up: returns the batch on the device as the model looks it up.
        loss: of a batch on the device, with what it reports.
        end: updates, with the batch in host memory and what was reported.
    """

    begin: Callable[[Batch], None]
    looked_up: Callable[[Batch], Batch]
    loss: Callable[[Batch], tuple[Tensor, Any]]
    end: Callable[[Batch, Any], None]


class PlainSteps:
    """One step after another, a batch in `micro_batches` parts.

    Args:
        parts: of a step.
        micro_batches: parts of a batch whose gradients are added up.
    """

    modules_ahead = 0

    def __init__(self, parts: StepParts, micro_batches: int = 1) -> None:
        self._parts, self._micro_batches = parts, micro_batches

    def over(self, batches: Iterator[Batch]) -> Iterator[None]:
        """Take a step for each batch, and yield after each."""
        for batch in batches:
            self._parts.begin(batch)
            reports = [
                self._backward(part) for part in self._parts.looked_up(batch).parts(self._micro_batches)
            ]
            self._parts.end(batch, reports)
            yield

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which the model may see other batches."""
        return nullcontext()

    def _backward(self, batch: Batch) -> Any:
        loss, report = self._parts.loss(batch)
        torch.autograd.backward(loss / self._micro_batches)
        return report


class SparseDistSteps:
    """TorchRec's pipeline: while a batch is computed, the ids of the next one travel between ranks, and the
    one after it to the device.

    The losses are those of `PlainSteps`: a lookup still comes after the update before it.

    Args:
        parts: of a step; `looked_up` must leave the ids of a batch as they are, which are gone by then.
        task: sharded; torch.fx can trace it.
        device: of the rank.

    Attributes:
        modules_ahead: how many modules with tables have their ids sent ahead; known after the first step.
    """

    def __init__(self, parts: StepParts, task: nn.Module, device: torch.device) -> None:
        self.modules_ahead = 0
        self._parts = parts
        self._coming: deque[Batch] = deque()
        self._report: Any = None
        self._pipeline: TrainPipelineSparseDist = TrainPipelineSparseDist(
            task,
            _Update(self._begin, self._end),
            device,
            custom_model_fwd=self._forward,
            dmp_collection_sync_interval_batches=None,  # The loop averages the copies of tables.
        )

    def over(self, batches: Iterator[Batch]) -> Iterator[None]:
        """Take a step for each batch, and yield after each."""
        source = self._noted(batches)
        while True:
            try:
                self._pipeline.progress(source)
            except StopIteration:
                return
            self.modules_ahead = len(self._pipeline._pipelined_modules)
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Give the model its own forward back; batches that are on their way wait."""
        self._pipeline.detach()
        try:
            yield
        finally:
            self._pipeline.attach()

    def _begin(self) -> None:
        self._parts.begin(self._coming[0])

    def _end(self) -> None:
        self._parts.end(self._coming.popleft(), [self._report])

    def _noted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._coming.append(batch)
            yield batch

    def _forward(self, batch: Batch | None) -> tuple[Tensor, Any]:
        assert batch is not None
        loss, self._report = self._parts.loss(self._parts.looked_up(batch))
        return loss, self._report


class _Update:
    """What the pipeline takes for an optimizer: the loop's begin and end of a step."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.zero_grad, self.step = begin, end
