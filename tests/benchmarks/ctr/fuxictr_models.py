"""CTR models of FuxiCTR's layers, trained by its BaseModel on a data set that shardrec prepared.

    PYTHON_WITH_FUXICTR fuxictr_models.py prepared/movielens_1m_fm < settings.json

Settings are a list of {"model", "embedding_dim", "layers", "dropout", "batch_size", "epochs", "seed",
"learning_rate", "embedding_regularizer", and what the model has of "norm", "cross_layers", "structure",
"cin_layers", "gates"}. Each is run in turn and printed as a line of JSON with its AUC and log loss. Imports
nothing of shardrec, which that Python need not have.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuxictr.features import FeatureMap
from fuxictr.metrics import evaluate_metrics
from fuxictr.pytorch.layers import (
    CompressedInteractionNet,
    CrossNet,
    CrossNetV2,
    FactorizationMachine,
    FeatureEmbedding,
    InnerProductInteraction,
    LogisticRegression,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn

LABEL = "label"


class Rows:
    """Batches of a split, shuffled anew at each pass or in order.

    Args:
        columns: of all rows, by feature and label.
        batch_size: rows of a batch.
        shuffle: whether the order changes.
    """

    def __init__(self, columns: dict[str, Tensor], batch_size: int, shuffle: bool) -> None:
        self.columns, self.batch_size, self.shuffle = columns, batch_size, shuffle
        self.rows = len(columns[LABEL])

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches by column."""
        order = torch.randperm(self.rows) if self.shuffle else torch.arange(self.rows)
        for rows in order.split(self.batch_size):
            yield {name: column[rows] for name, column in self.columns.items()}


class Gate(nn.Module):
    """FinalMLP's feature gate: twice the sigmoid of a network over vectors of its own for some features."""

    def __init__(self, feature_map: FeatureMap, features: list[str], dim: int, width: int) -> None:
        super().__init__()
        self.embedding = FeatureEmbedding(feature_map, dim, required_feature_columns=features)
        self.network = MLP_Block(
            len(features) * dim, hidden_units=[64], output_dim=width, output_activation="Sigmoid"
        )

    def forward(self, X: dict[str, Tensor]) -> Tensor:
        """Return [B, width]."""
        gate: Tensor = self.network(self.embedding(X, flatten_emb=True))
        return 2 * gate


class Composed(BaseModel):  # type: ignore[misc]
    """One of FuxiCTR's models, by what its model zoo puts together for the name."""

    def __init__(self, feature_map: FeatureMap, settings: dict[str, Any], folder: Path) -> None:
        super().__init__(
            feature_map,
            embedding_regularizer=settings["embedding_regularizer"],
            verbose=0,
            model_root=str(folder),
            metrics=["AUC", "logloss"],
        )
        dim, name, fields = settings["embedding_dim"], settings["model"], feature_map.num_fields
        self.name, self.settings = name, settings
        width = fields * dim
        self.embedding_layer = FeatureEmbedding(feature_map, dim)
        if name in ("fm", "deep_fm"):
            self.fm = FactorizationMachine(feature_map)
        if name in ("wide_deep", "xdeep_fm"):
            self.linear = LogisticRegression(feature_map)
        if name in ("wide_deep", "deep_fm", "xdeep_fm"):
            self.deep = self.mlp(width, 1)
        if name == "xdeep_fm":
            self.cin = CompressedInteractionNet(fields, settings["cin_layers"])
        if name in ("dcn", "dcn_v2"):
            self.cross = (CrossNet if name == "dcn" else CrossNetV2)(width, settings["cross_layers"])
            self.deep = self.mlp(width)
            self.parallel = settings["structure"] == "parallel"
            last = settings["layers"][-1]
            self.last = nn.Linear(last + width if self.parallel else last, 1)
        if name == "final_mlp":
            self.gates = nn.ModuleList(Gate(feature_map, one, dim, width) for one in settings["gates"])
            self.streams = nn.ModuleList(self.mlp(width) for _ in range(2))
            last = settings["layers"][-1]
            self.linear_fusion = nn.Linear(2 * last, 1)
            self.products = nn.Parameter(nn.init.xavier_normal_(torch.empty(last, last)))
        if name == "dlrm":
            self.interaction = InnerProductInteraction(fields, output="inner_product")
            self.deep = self.mlp(fields * (fields - 1) // 2, 1)
        self.compile("adam", "binary_crossentropy", settings["learning_rate"])
        self.reset_parameters()

    def mlp(self, width: int, outputs: int | None = None) -> nn.Module:
        """Build the deep network of the settings."""
        return MLP_Block(
            width,
            hidden_units=self.settings["layers"],
            output_dim=outputs,
            dropout_rates=self.settings["dropout"],
            batch_norm=self.settings.get("norm") == "batch",
        )

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return probabilities as `y_pred`."""
        X = self.get_inputs(inputs)
        return {"y_pred": self.logits(X, self.embedding_layer(X)).sigmoid()}

    def logits(self, X: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Return logits [B, 1] for the vectors [B, F, D] of the inputs."""
        flat = vectors.flatten(1)
        if self.name == "fm":
            return self.fm(X, vectors)
        if self.name == "deep_fm":
            return self.fm(X, vectors) + self.deep(flat)
        if self.name == "wide_deep":
            return self.linear(X) + self.deep(flat)
        if self.name == "xdeep_fm":
            return self.linear(X) + self.cin(vectors) + self.deep(flat)
        if self.name == "dlrm":
            return self.deep(self.interaction(vectors))
        if self.name == "final_mlp":
            seen = [flat * gate(X) for gate in self.gates] or [flat, flat]
            first, second = (stream(x) for stream, x in zip(self.streams, seen, strict=True))
            products = ((first @ self.products) * second).sum(dim=1, keepdim=True)
            return self.linear_fusion(torch.cat([first, second], dim=1)) + products
        crossed = self.cross(flat)
        top = torch.cat([crossed, self.deep(flat)], dim=1) if self.parallel else self.deep(crossed)
        return self.last(top)


def read_split(
    dataset: Path, features: list[dict[str, Any]], files: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """Return the columns of a split: ids [rows], lists [rows, longest] with zeros behind, and the label."""
    names = [feature["name"] for feature in features]
    table = pa.concat_tables(pq.read_table(dataset / file["path"], columns=[*names, LABEL]) for file in files)
    return {name: tensor_of(table.column(name).combine_chunks()) for name in table.column_names}


def tensor_of(column: pa.Array) -> Tensor:
    """Return a column of numbers, or of lists of them, as a tensor."""
    if not pa.types.is_list(column.type):
        return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())
    lengths = np.diff(column.offsets.to_numpy())
    padded = np.zeros((len(column), max(lengths)), dtype=np.int64)
    padded[np.arange(max(lengths)) < lengths[:, None]] = column.flatten().to_numpy()
    return torch.from_numpy(padded)


def feature_map_of(features: list[dict[str, Any]], embedding_dim: int) -> FeatureMap:
    """Return the features as FuxiCTR describes them; id 0 is padding for both."""
    described = FeatureMap("prepared", ".")
    for feature in features:
        spec = {"source": "", "vocab_size": feature["num_embeddings"], "padding_idx": 0}
        pooled = {"type": "sequence", "feature_encoder": "layers.MaskedAveragePooling()"}
        described.features[feature["name"]] = spec | (
            pooled if feature["is_list"] else {"type": "categorical"}
        )
    described.labels, described.default_emb_dim = [LABEL], embedding_dim
    described.num_fields = described.get_num_fields()
    return described


def measured(settings: dict[str, Any], manifest: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """Train one model and return its metrics on valid and test at the best epoch on valid."""
    seed_everything(settings["seed"])
    begun, clock = time.process_time(), time.perf_counter()
    loaders = {split: Rows(columns[split], settings["batch_size"], split == "train") for split in columns}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prepared").mkdir()
        features = feature_map_of(manifest["spec"]["features"], settings["embedding_dim"])
        model = Composed(features, settings, Path(folder))
        model.fit(loaders["train"], epochs=settings["epochs"], validation_data=loaders["valid"])
    found = {}
    for split in ("valid", "test"):
        y_true = columns[split][LABEL].numpy().astype(np.float64)
        found[split] = evaluate_metrics(y_true, model.predict(loaders[split]), ["AUC", "logloss"])
    return {
        **settings,
        **{split: {name.lower(): float(value) for name, value in of.items()} for split, of in found.items()},
        "epochs_trained": model._epoch_index + 1,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "seconds": round(time.perf_counter() - clock, 1),
    }


def main() -> None:
    """Read settings from stdin and print a line for each."""
    dataset = Path(sys.argv[1])
    manifest = json.loads((dataset / "manifest.json").read_text())
    splits = manifest["splits"]
    columns = {s: read_split(dataset, manifest["spec"]["features"], splits[s]["files"]) for s in splits}
    for settings in json.load(sys.stdin):
        print(json.dumps(measured(settings, manifest, columns)), flush=True)


if __name__ == "__main__":
    main()
