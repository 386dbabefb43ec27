# Databricks notebook source
# MAGIC %md
# MAGIC # 6. What if
# MAGIC
# MAGIC Plans for clusters that nobody has to have: does a model fit, how long is a step, what does an epoch cost? The
# MAGIC default model has 1.25 trillion parameters. `clusters` are NODESxINSTANCE or NODESxGPUSxGPU, as
# MAGIC `shardrec plan --cluster` takes them. All of this computes on the driver's CPU.

# COMMAND ----------

from jobs import Cluster, plan
from jobs.notebooks import config_of, settings
from sharding.report import plan_report

given = settings(
    globals(),
    config="whatif_dlrm_1_25t",
    overrides="",
    clusters="16xp5.48xlarge 32xp5.48xlarge",
)
run = config_of(given)

# COMMAND ----------

for name in given["clusters"].split():
    print(plan_report(plan(run, None, Cluster.parse(name))), end="\n\n")
