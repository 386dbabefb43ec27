"""A notebook's way to the cluster, in a process of its own: `python -m tests.cluster.train_driver`.

Arguments: MASTER CONFIG DATA RUN_FOLDER. Trains and evaluates on every slot that registers, and prints one
JSON object.
"""

from __future__ import annotations

import json
import sys

from jobs import Cluster, RunConfig, evaluate, train
from jobs.session import spark_session


def main() -> None:
    master, config, data, run_folder = sys.argv[1:]
    spark = spark_session("train-on-cluster", master=master)
    cluster = Cluster.from_spark(spark)  # No executor has registered yet.
    result = train(RunConfig.load(config), data, cluster, out=run_folder, show_progress=False)
    found = evaluate(result, "test", cluster=Cluster.from_spark(spark, ranks=2))
    address = spark.conf.get("spark.driver.host")
    print(json.dumps({"ranks": cluster.world_size, "metrics": found.metrics, "driver": address}))


if __name__ == "__main__":
    main()
