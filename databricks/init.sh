#!/bin/bash
# What a Databricks ML runtime lacks. FBGEMM is built for one torch, so that torch comes along; pip alone would take
# the CUDA build of FBGEMM on hosts without GPUs, since torchrec asks for it.
set -euo pipefail
pip=/databricks/python/bin/pip

if command -v nvidia-smi > /dev/null; then fbgemm=fbgemm-gpu; else fbgemm=fbgemm-gpu-cpu; fi
"$pip" install torch==2.13.0
"$pip" install --no-deps torchrec==1.8.0 "$fbgemm==1.8.0"
"$pip" install tensordict torchmetrics==1.0.3 pyre-extensions "pandas>=2.0,<3" "pydantic>=2.7,<3" pyyaml tensorboard \
  tqdm "matplotlib>=3.8" jinja2 "xxhash>=3.0"
