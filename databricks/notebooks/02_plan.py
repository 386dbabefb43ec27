# Databricks notebook source
# MAGIC %md
# MAGIC # 2. Plan
# MAGIC
# MAGIC EmbeddingShardingPlanner places the embedding tables on the ranks of this very cluster: `on` is `spark` for the
# MAGIC executors, `local` for ranks on the driver's host, `process` for one rank in this notebook.

# COMMAND ----------

from jobs import Dataset, plan
from jobs.notebooks import config_of, ranks_of, settings
from sharding.report import plan_report

given = settings(
    globals(),
    config="movielens_100k_dlrm",
    overrides="",
    data="prepared/movielens",
    plan="prepared/movielens-plan.json",
    on="local",
    ranks="2",
    gpu="",
)
run = config_of(given)
cluster = ranks_of(globals(), on=given["on"], ranks=given["ranks"], gpu=given["gpu"])

# COMMAND ----------

layout = plan(run, Dataset.open(given["data"]), cluster)
print(plan_report(layout))
layout.save(given["plan"])
