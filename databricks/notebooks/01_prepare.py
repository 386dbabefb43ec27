# Databricks notebook source
# MAGIC %md
# MAGIC # 1. Prepare
# MAGIC
# MAGIC Raw rows become sharded Parquet with vocabularies and a data report. `raw` is a file, a folder (for instance
# MAGIC `/Volumes/<catalog>/<schema>/<volume>/raw`), or empty for what the config's `data.source` names, which may be a
# MAGIC table of Unity Catalog (`table: catalog.schema.events`). `out` must lie where all hosts reach it: a volume.
# MAGIC
# MAGIC The cluster needs shardrec and its packages: see docs/databricks.md.

# COMMAND ----------

from jobs import prepare
from jobs.notebooks import config_of, settings

given = settings(
    globals(),
    config="movielens_100k_dlrm",
    overrides="",  # keys of the config, for instance train.epochs=3, one to a line
    raw="data/ml-100k",
    out="prepared/movielens",
)
run = config_of(given)

# COMMAND ----------

data = prepare(given["raw"] or None, run, given["out"])
print(data.report)

# COMMAND ----------

# MAGIC %md
# MAGIC The same as pictures is in `report.html` of the data set.
