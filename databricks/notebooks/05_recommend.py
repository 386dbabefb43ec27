# Databricks notebook source
# MAGIC %md
# MAGIC # 5. Recommend
# MAGIC
# MAGIC The best items for some users, without those that they have met. The result is a Spark DataFrame; with `table`, a
# MAGIC name such as `catalog.schema.recommendations`, it is written there. Where `users` is empty nothing happens.

# COMMAND ----------

from jobs import recommend
from jobs.notebooks import settings, show

given = settings(globals(), run_folder="runs/movielens", users="1 42 405", k="10", table="")

# COMMAND ----------

users = given["users"].split()
if users:
    best = recommend(given["run_folder"], users, int(given["k"]))
    show(globals(), best, rows=30)

# COMMAND ----------

if users and given["table"]:
    best.write.mode("overwrite").saveAsTable(given["table"])
