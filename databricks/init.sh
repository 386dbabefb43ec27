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
numpy="numpy>=1.25"
if "$python" -c 'import pyarrow; raise SystemExit(int(pyarrow.__version__.split(".")[0]) >= 16)'; then numpy+=",<2"; fi
# PyPI's torch is a build for GPUs, of gigabytes; uv knows where the one for CPUs is.
if [[ $fbgemm == fbgemm-gpu ]] || ! "$python" -m pip install uv ||
  ! "$python" -m uv pip install --python "$python" --torch-backend=cpu torch==2.13.0; then
  "$python" -m pip install torch==2.13.0
fi
"$python" -m pip install --no-deps torchrec==1.8.0 "$fbgemm==1.8.0"
"$python" -m pip install tensordict torchmetrics==1.0.3 pyre-extensions "$numpy" "pandas>=2.0,<3" "pydantic>=2.7,<3" \
  "pyyaml>=6.0.1" "tensorboard>=2.16" "tqdm>=4.64" "matplotlib>=3.8" "jinja2>=3.1.2" "xxhash>=3.2"
