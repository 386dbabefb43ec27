#!/bin/bash
# What a container does: `master` and `worker URL` are the daemons of Spark, `executor` and `driver` come from Spark on
# Kubernetes; everything else is a verb of shardrec.
set -euo pipefail

case ${1:-} in
  master)
    exec spark-class org.apache.spark.deploy.master.Master --host "$HOSTNAME" "${@:2}"
    ;;
  worker)
    exec spark-class org.apache.spark.deploy.worker.Worker --host "$HOSTNAME" --work-dir /tmp/spark "${@:2}"
    ;;
  executor)
    # Java options are in variables that are numbered from 0 on.
    readarray -t options < <(env | sed -n 's/^SPARK_JAVA_OPT_[0-9]*=//p')
    jars=$(python -c 'import pyspark; print(pyspark.__path__[0])')/jars
    exec "$JAVA_HOME/bin/java" "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
      -cp "${SPARK_CONF_DIR:-/opt/spark/conf}:${SPARK_CLASSPATH:-}:$jars/*" \
      org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
      --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
      --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
      --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
    ;;
  driver)
    exec spark-submit --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" --deploy-mode client "${@:2}"
    ;;
  healthy)
    # A daemon answers over HTTP; anything else is well for as long as it runs.
    case $(tr '\0' ' ' < /proc/1/cmdline) in
      *entrypoint.sh\ master\ *) port=8080 ;;
      *entrypoint.sh\ worker\ *) port=8081 ;;
      *) exit 0 ;;
    esac
    # Not by a proxy that the host has put into the environment.
    exec python -c "from urllib import request as r
r.build_opener(r.ProxyHandler({})).open('http://$HOSTNAME:$port/json/', timeout=10)"
    ;;
  *)
    exec shardrec "$@"
    ;;
esac
