# Databricks notebook source
# MAGIC %md
# MAGIC # 4. Evaluate
# MAGIC
# MAGIC Metrics of a split, each row once; `by` names a kept column (`data.keep`) whose groups are shown beside the whole.
# MAGIC The report of the run is one page, `report.html` in its folder.

# COMMAND ----------

from jobs import evaluate
from jobs.notebooks import ranks_of, settings
from trainer.reporting import write_report

given = settings(
    globals(), run_folder="runs/movielens", split="test", by="gender", on="process", ranks="", gpu=""
)
cluster = ranks_of(globals(), on=given["on"], ranks=given["ranks"], gpu=given["gpu"])

# COMMAND ----------

found = evaluate(given["run_folder"], given["split"], given["by"] or None, cluster=cluster)
for name, value in found.metrics.items():
    print(f"{name:<24} {value:.5f}")

# COMMAND ----------

report = write_report(given["run_folder"])
page = report.read_text(encoding="utf-8")
if "displayHTML" in globals():
    displayHTML(page)  # noqa: F821 - Databricks has it
else:
    print(report)
