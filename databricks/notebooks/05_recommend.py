# Databricks notebook source
# MAGIC %md
# MAGIC # 5. Recommend
# MAGIC
# MAGIC The best items for some users, without those that they have met. The result is a Spark DataFrame; with `table`, a
# MAGIC name such as `catalog.schema.recommendations`, it is written there.

# COMMAND ----------

from jobs import recommend
from jobs.notebooks import settings, show

given = settings(globals(), run_folder="runs/movielens", users="1 42 405", k="10", table="")

# COMMAND ----------

best = recommend(given["run_folder"], given["users"].split(), int(given["k"]))
show(globals(), best, rows=30)

# COMMAND ----------

if given["table"]:
    best.write.mode("overwrite").saveAsTable(given["table"])
