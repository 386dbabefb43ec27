#!/bin/bash
# What a Databricks ML runtime lacks. FBGEMM is built for one torch, so that torch comes along; pip alone would take
# the CUDA build of FBGEMM on hosts without GPUs, since torchrec asks for it.
set -euo pipefail
python=${SHARDREC_PYTHON:-/databricks/python/bin/python}

if command -v nvidia-smi > /dev/null; then
  fbgemm=fbgemm-gpu
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  if ((${driver%%.*} < 580)); then
    echo "torch 2.13 of PyPI is a build for CUDA 13, which needs an NVIDIA driver from 580 on; this host has $driver." \
      "Take a newer runtime, or builds of torch and fbgemm-gpu for its CUDA." >&2
    exit 1
  fi
else
  fbgemm=fbgemm-gpu-cpu
fi
# pyarrow before 16, which the runtime has Spark with, was built for numpy 1.
numpy="numpy>=1.24"
if "$python" -c 'import pyarrow; raise SystemExit(int(pyarrow.__version__.split(".")[0]) >= 16)'; then numpy+=",<2"; fi
"$python" -m pip install torch==2.13.0
"$python" -m pip install --no-deps torchrec==1.8.0 "$fbgemm==1.8.0"
"$python" -m pip install tensordict torchmetrics==1.0.3 pyre-extensions "$numpy" "pandas>=2.0,<3" "pydantic>=2.7,<3" \
  pyyaml tensorboard tqdm "matplotlib>=3.8" jinja2 "xxhash>=3.0"
