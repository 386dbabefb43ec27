#!/bin/sh
# /opt/shardrec: what shardrec needs, for one of the extras `cpu` and `gpu`. FIND_LINKS may name a folder of wheels.
set -eu
export UV_SYSTEM_CERTS=1 # where a company may have added its own
extra=$1 torch=""
python3 -m venv /tmp/uv
/tmp/uv/bin/pip install --quiet --no-cache-dir uv
python3 -m venv /opt/shardrec
# The CPU build of torch has an index of its own, and a tenth of the size.
if [ "$extra" = cpu ] && [ -z "${FIND_LINKS:-}" ]; then torch=--torch-backend=cpu; fi
# Compiled, since the user of the image may not write there and every process would compile torch anew.
UV_FIND_LINKS=${FIND_LINKS:-} /tmp/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/shardrec/bin/python \
  --constraint constraints-newest.txt $torch --requirements pyproject.toml --extra "$extra" --extra quickstart --extra faiss
rm -rf /tmp/uv
cd /opt/shardrec/lib/python3*/site-packages/torch && rm -rf test include # for those who compile
