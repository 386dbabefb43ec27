"""Texts at the head of generated pages, for docs/generate.py."""

from __future__ import annotations

CONFIG_INTRO = """# Config reference

A run is one YAML file. A key that does not exist is an error that names its full path and the nearest key
that does. Values come from three places, later ones winning: the defaults below, the file, and
`--set key.path=value` on the command line (the value is YAML; list items go by number, as in
`--set features.sparse.0.pooling=mean`). Nothing is read from the environment. The resolved config, defaults
included, is stored in the run folder.

A file may begin with `extends: other.yaml`, a path that starts from its own folder, and then says only what
differs from that file:

```yaml
extends: movielens_100k_base.yaml
name: movielens_100k_fm
model: {name: fm, embedding_dim: 8}
```

Mappings are merged key by key; a list or a single value takes the place of the other file's. A `model` of
another `name` takes nothing over, for its keys are others. The other file may extend a third one, and need
not be a whole config by itself.

`shardrec config schema` prints a JSON schema for editors. [Feature ops](feature-ops.md) and the keys of each
[model](models.md) have pages of their own.
"""

OPS_INTRO = """# Feature ops

Ops turn a raw column into a model input, from left to right:

```yaml
features:
  dense:
    - {columns: "I*", ops: [fill: 0, clip: {min: 0}, log1p]}
  sparse:
    - {columns: genres, ops: [split: "|", vocabulary: {min_count: 5}], pooling: mean}
    - {columns: time, name: weekday, ops: [weekday: Europe/Berlin, vocabulary]}
    - {cross: [city, device], name: city_device, ops: [hash: 100000]}
```

An op is written as its name, as `name: value` for its first parameter, or as
`name: {parameter: value, ...}`. What an op needs from the data (a mean, a vocabulary) is fitted on the
training rows alone and stored in the manifest.

The first op says how the column is read: as numbers, as times or as ids. Without ops, dense features are
numbers and the others ids. A chain goes on with ops for what the op before gives:

| features | start with ops for | and go on |
| --- | --- | --- |
| dense | numbers, times | times become numbers |
| sparse, sequence | ids, times, numbers | times become numbers, and numbers ids |

A number that becomes an id is written as text, whole ones as `7`. An op that makes ids (`vocabulary`, `hash`)
comes last; without one, the column must hold whole numbers from 0, which are the ids themselves, and 0 means
missing. Sequence features apply the ops item by item.

The examples show raw values beside what the prepared column holds for them. The tests run each one.
"""

MADE_INTRO = """## Of several columns or rows

A group that has one of these keys in place of `columns` makes its feature of several columns, or of other
rows; ops then go on from there. It needs a `name`, which the examples leave out.
[Derived features](derived-features.md) says what counts as earlier, and `vectors` have
[a page of their own](vectors.md). The examples are made of these training rows:
"""

MODELS_INTRO = """# Models

`model.name` picks one of these; the other keys of the `model` section are the model's own. `model.module`
names the Python module of [a model of yours](own-models.md). A model to share is one file in
`trainer/models/` (CONTRIBUTING.md in the repository shows one); it appears here by itself. Each has a
config for MovieLens-100K, `jobs/configs/movielens_100k_<name>.yaml`. `shardrec models` prints this table.
To compare with there are popularity, item-kNN and ALS, the [baselines](baselines.md).
"""
