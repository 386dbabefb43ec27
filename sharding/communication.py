"""Precision in which embeddings and their gradients travel between ranks: TorchRec's quantised communication.

```python
communication = TableCommunication(forward="fp16", backward="bf16")
plan = make_plan(..., communication=communication)      # `shard_model` trains with what the plan records
```

The model gets fp32. By default the kernels look up fp32 and codecs pack what travels; with another
`output_dtype` the kernels themselves round, and what they give travels as it is. Where the ranks of a
reduce-scatter add vectors up (pooled tables under row_wise, table_row_wise and grid_shard), 8 bits and a
scale cannot be added: `int8` sums in fp16 there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs
from torchrec.modules.embedding_configs import DataType

from sharding.errors import PlanError
from sharding.table_plan import TablePlan

FORWARD_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BACKWARD_PRECISIONS = ("fp32", "fp16", "bf16")
_OUTPUT_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "bf16": DataType.BF16}
_KEY, _OUTPUT_KEY = "train.table_communication", "train.table_output_dtype"
# FBGEMM's codec: 32 numbers of 8 bits share a scale and an offset in fp32.
_INT8_GROUP = 32
_VALUE_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1 + 8 / _INT8_GROUP}
_SUMMED = frozenset({"row_wise", "table_row_wise", "grid_shard"})


@dataclass(frozen=True)
class TableCommunication:
    """Precision of the exchange of embeddings: `train.table_communication` and `train.table_output_dtype`.

    Attributes:
        forward: of the embeddings: `fp32`, `fp16`, `bf16` or `int8`.
        backward: of their gradients: `fp32`, `fp16` or `bf16`.
        output_dtype: of what the kernels look up, and of its gradient: `fp32`, `fp16` or `bf16`.
    """

    forward: str = "fp32"
    backward: str = "fp32"
    output_dtype: str = "fp32"

    def __post_init__(self) -> None:
        for where, got, allowed in (
            (f"{_KEY}.forward", self.forward, FORWARD_PRECISIONS),
            (f"{_KEY}.backward", self.backward, BACKWARD_PRECISIONS),
            (_OUTPUT_KEY, self.output_dtype, tuple(_OUTPUT_TYPES)),
        ):
            if got not in allowed:
                raise PlanError(
                    "embeddings cannot travel in this precision", where=where, got=got, allowed=allowed
                )
        if self.output_dtype != "fp32" and (self.forward, self.backward) != ("fp32", "fp32"):
            raise PlanError(
                f"{self.output_dtype} vectors travel as they are, and no codec packs them",
                where=_KEY,
                got=f"{self.forward} forward, {self.backward} backward",
                allowed="fp32 for both",
                fixes=[f"leave {_KEY} out", f"leave {_OUTPUT_KEY} out"],
            )

    def __str__(self) -> str:
        if self.output_dtype != "fp32":
            return f"{self.output_dtype}, as the kernels look them up"
        return f"{self.forward} forward, {self.backward} backward"

    @property
    def output_type(self) -> DataType | None:
        """Return TorchRec's name of what the kernels look up; None for fp32, their default."""
        return None if self.output_dtype == "fp32" else _OUTPUT_TYPES[self.output_dtype]

    def check_device(self, device: str) -> None:
        """Refuse what the kernels of a device do not look up.

        Raises:
            PlanError: it is bf16 on CPU.
        """
        if device == "cpu" and self.output_dtype == "bf16":
            raise PlanError(
                "FBGEMM's CPU kernels look up no such vectors",
                where=_OUTPUT_KEY,
                got=self.output_dtype,
                allowed=("fp32", "fp16"),
                fixes=[f"--set {_OUTPUT_KEY}=fp32", "train on GPUs"],
            )

    def codecs(self) -> dict[str, QuantizedCommCodecs] | None:
        """Return the codecs by TorchRec's name of the exchange; None where all is fp32."""
        if (self.forward, self.backward) == ("fp32", "fp32"):
            return None
        # TorchRec's own registry puts fp16 for bf16 on CPU; gloo moves and adds bf16 all the same.
        return {
            operation.name: get_qcomm_codecs(
                QCommsConfig(
                    CommType(self._forward(operation is CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)),
                    CommType(self.backward),
                )
            )
            for operation in CommOp
        }

    def forward_bytes(self, *, summed: bool) -> float:
        """Return the bytes of one number of an embedding; `summed` where a reduce-scatter adds them up."""
        return min(_VALUE_BYTES[self._forward(summed)], _VALUE_BYTES[self.output_dtype])

    @property
    def backward_bytes(self) -> float:
        """Return the bytes of one number of a gradient."""
        return min(_VALUE_BYTES[self.backward], _VALUE_BYTES[self.output_dtype])

    def _forward(self, summed: bool) -> str:
        return "fp16" if summed and self.forward == "int8" else self.forward

    def check_tables(self, tables: Iterable[TablePlan], batch_size_per_rank: int) -> None:
        """Refuse tables whose vectors do not come in whole groups of the `int8` codec.

        Args:
            tables: of a plan.
            batch_size_per_rank: rows that one rank reads per step.

        Raises:
            PlanError: names the table and what would do.
        """
        for table in tables if self.forward == "int8" else ():
            if table.sharding_type == "data_parallel" or (
                table.pooling != "none" and table.sharding_type == "row_wise"
            ):
                continue
            # Pooled vectors travel a batch at a time, those of sequences one for each id.
            vectors = 1 if table.pooling == "none" else batch_size_per_rank
            for columns in sorted({shard.columns for shard in table.shards}):
                if vectors * columns % _INT8_GROUP:
                    raise PlanError(
                        f"int8 packs {_INT8_GROUP} numbers at a time, which do not come out even",
                        where=f"table {table.name} ({table.sharding_type}), {_KEY}.forward",
                        got=f"{vectors} x {columns} columns",
                        allowed=f"a multiple of {_INT8_GROUP}",
                        fixes=[
                            f"--set {_KEY}.forward=fp16",
                            f"tables.{table.name}.embedding_dim: a multiple of {_INT8_GROUP}",
                        ],
                    )


FULL_PRECISION = TableCommunication()


def is_summed(sharding_type: str, pooled: bool) -> bool:
    """Return whether ranks add up their parts of a vector on its way."""
    return pooled and sharding_type in _SUMMED
