# Databricks notebook source
# MAGIC %md
# MAGIC # 3. Train
# MAGIC
# MAGIC TorchDistributor starts the ranks, which shard the tables by the plan of notebook 2. A run folder that holds a
# MAGIC checkpoint goes on from there, also on another number of ranks (then leave `plan` empty).
# MAGIC
# MAGIC With an `experiment`, such as `/Shared/ads`, MLflow shows the run there. With a `registered_model`, in Unity Catalog
# MAGIC `catalog.schema.model`, the finished run becomes a version of it.

# COMMAND ----------

from jobs import Dataset, train
from jobs.notebooks import config_of, ranks_of, settings
from sharding.plan import Plan

given = settings(
    globals(),
    config="movielens_100k_dlrm",
    overrides="",
    data="prepared/movielens",
    plan="prepared/movielens-plan.json",
    run_folder="runs/movielens",
    on="local",
    ranks="2",
    gpu="",
    experiment="",
    registered_model="",
)
run = config_of(given)
cluster = ranks_of(globals(), on=given["on"], ranks=given["ranks"], gpu=given["gpu"])
layout = Plan.load(given["plan"]) if given["plan"] else None

# COMMAND ----------

result = train(run, Dataset.open(given["data"]), cluster, layout, out=given["run_folder"])
print(result.metrics)
