#!/bin/sh
# The GPUs of a host or container, as Spark wants to be told of them (spark.executor.resource.gpu.discoveryScript).
addresses=$(nvidia-smi --query-gpu=index --format=csv,noheader | sed 's/.*/"&"/' | paste -sd, -)
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
