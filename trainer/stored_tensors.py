"""Checkpoints read and written by one process, a tensor at a time: they need not fit its memory."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from trainer.checkpoint import load_checkpoint, read_metadata

# A rank that loads a part of a tensor reads the whole pieces that it lies in.
_PIECE_BYTES = 1 << 26
_KNOWN_WARNING = "torch.distributed is (disabled|unavailable)"

Rows = Callable[[int, int], Tensor]
"""Returns the rows of a tensor from one number up to another."""


class StoredTensors:
    """The tensors of a checkpoint.

    Args:
        checkpoint: its folder.

    Attributes:
        places: by the tensor's name, the keys that lead to it in the state dict.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        metadata = read_metadata(checkpoint)
        self._stored = {
            name: stored
            for name, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        self.places: dict[str, tuple[Any, ...]] = {name: metadata.planner_data[name] for name in self._stored}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._stored[name].size)

    def dtype(self, name: str) -> torch.dtype:
        """Return the data type of a tensor."""
        return self._stored[name].properties.dtype

    def read(self, name: str) -> Tensor:
        """Read a whole tensor.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        tensor = torch.empty(self.shape(name), dtype=self.dtype(name))
        with _one_process():
            load_checkpoint(self._checkpoint, {name: tensor})
        return tensor

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows of a tensor, also where other ranks read something else.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        tensor = torch.empty(stop - start, *self.shape(name)[1:], dtype=self.dtype(name))
        with _one_process():
            load_checkpoint(self._checkpoint, {}, _SomeRows(name, start, tensor))
        return tensor


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write.

    Attributes:
        name: in the checkpoint.
        place: the keys that lead to it in the state dict.
        shape: of the whole.
        dtype: of its elements.
        open: makes what gives its rows; called once, when the tensors before it are written.
    """

    name: str
    place: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    open: Callable[[], Rows]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield the first row and the end of each piece; a scalar is one piece."""
        if not self.shape or 0 in self.shape:
            yield 0, self.shape[0] if self.shape else 0
            return
        row_bytes = self.dtype.itemsize * torch.Size(self.shape[1:]).numel()
        step = max(1, _PIECE_BYTES // row_bytes)
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])


def write_tensors(checkpoint: Path, tensors: Sequence[NewTensor]) -> None:
    """Write the files of a checkpoint; one tensor at a time is in memory.

    Args:
        checkpoint: folder to write to.
        tensors: in the order in which they are made.

    Raises:
        BaseException: what `open` or the file system raised; torch would wrap it.
    """
    writer = FileSystemWriter(checkpoint, per_thread_copy_ahead=0)  # ahead, they would be sorted by size
    try:
        with _one_process():
            state_dict_saver.save({}, storage_writer=writer, planner=_Pieces(tensors))
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


@contextmanager
def _one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _KNOWN_WARNING)
        yield


class _Pieces(SavePlanner):
    """Plans the pieces of tensors, and makes each when it is written."""

    def __init__(self, tensors: Sequence[NewTensor]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._opened: tuple[str, Rows] | None = None

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Do nothing: the tensors are known."""

    def create_local_plan(self) -> SavePlan:
        """Plan every piece."""
        return SavePlan([item for tensor in self._tensors.values() for item in _items(tensor)])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Describe the tensors for those who load them."""
        plans, metadata = create_default_global_save_plan(all_plans)
        metadata.planner_data = {tensor.name: tensor.place for tensor in self._tensors.values()}
        return plans, metadata

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        """Make a piece; the tensor before is let go where another one begins."""
        name = write_item.index.fqn
        if self._opened is None or self._opened[0] != name:
            self._opened = None
            self._opened = name, self._tensors[name].open()
        assert write_item.tensor_data is not None
        chunk = write_item.tensor_data.chunk
        start = chunk.offsets[0] if chunk.offsets else 0
        return self._opened[1](start, start + (chunk.sizes[0] if chunk.sizes else 0))


class _SomeRows(DefaultLoadPlanner):
    """Reads rows of one tensor."""

    def __init__(self, name: str, start: int, tensor: Tensor) -> None:
        super().__init__()
        self._name, self._start, self._tensor = name, start, tensor

    def create_local_plan(self) -> LoadPlan:
        """Plan the pieces that the rows lie in."""
        assert self.metadata is not None
        stored = self.metadata.state_dict_metadata[self._name]
        assert isinstance(stored, TensorStorageMetadata)
        offsets = torch.Size([self._start, *[0] * (self._tensor.ndim - 1)])
        chunk = ChunkStorageMetadata(offsets, self._tensor.shape)
        return LoadPlan(create_read_items_for_chunk_list(self._name, stored, [chunk]))

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Return where the rows go to."""
        assert index.fqn == self._name
        return self._tensor


def _items(tensor: NewTensor) -> Iterator[WriteItem]:
    zeros = [0] * max(0, len(tensor.shape) - 1)
    for start, stop in tensor.pieces():
        offsets = torch.Size([start, *zeros] if tensor.shape else [])
        sizes = torch.Size([stop - start, *tensor.shape[1:]] if tensor.shape else [])
        data = TensorWriteData(
            chunk=ChunkStorageMetadata(offsets, sizes),
            properties=TensorProperties(dtype=tensor.dtype),
            size=torch.Size(tensor.shape),
        )
        yield WriteItem(MetadataIndex(tensor.name, offsets), WriteItemType.SHARD, tensor_data=data)
