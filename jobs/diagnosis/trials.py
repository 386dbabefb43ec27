"""What only trying tells: whether packages import, a GPU computes, Spark runs Python, ranks meet."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.diagnosis.findings import Finding

_SECONDS = 180.0
_OF_RANK = re.compile(r"^\[rank\d+\]: ?")
_ERROR = re.compile(r"^[\w.]*(Error|Exception)\b")
_INSTALLATION = "install the versions of constraints.txt: docs/install.md"
# The GPU build of FBGEMM loads libraries that come with the driver.
_WITHOUT_DRIVER = (
    "let the container have the GPUs and their driver: docker run --gpus all",
    "without GPUs take the CPU build: the extra `cpu`, or fbgemm-gpu-cpu in place of fbgemm-gpu",
)

_TORCH = """
import json, warnings
warnings.simplefilter("ignore")
import torch, torchrec, fbgemm_gpu
assert torch.ops.fbgemm.permute_2D_sparse_data
gpus, error = [], ""
try:
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    if gpus:
        torch.ones(8, device="cuda").sum().item()
except Exception as problem:
    error = str(problem).splitlines()[0]
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "error": error}))
"""
_PETASTORM = "import petastorm, petastorm.pytorch; print('{}')"
_SPARK = """
import json
from jobs.session import spark_session
from trainer.errors import ShardrecError
import pyarrow as pa

def plus_one(batches):
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"id": [x + 1 for x in batch.column(0).to_pylist()]})

try:
    spark = spark_session("shardrec doctor", master="local[1]")
    found = [row.id for row in spark.range(3).mapInArrow(plus_one, "id long").collect()]
    spark.stop()
    assert found == [1, 2, 3], found
    print(json.dumps({}))
except ShardrecError as error:
    print(json.dumps({"what": error.what, "got": str(error.got), "fixes": list(error.fixes)}))
"""
_RANK = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(3)
dist.all_reduce(x)
assert x.tolist() == [2.0, 2.0, 2.0], x
dist.destroy_process_group()
"""


def trial_findings(versions: Mapping[str, str], *, visible_gpus: str | None) -> Iterator[Finding]:
    """Try what the verbs build upon.

    Args:
        versions: of the installed packages.
        visible_gpus: `CUDA_VISIBLE_DEVICES`.
    """
    torch, error = _tried(_TORCH)
    if torch is None:
        without_driver = "fbgemm-gpu" in versions and not _gpus_of_driver()
        fixes = _WITHOUT_DRIVER if without_driver else ()
        yield Finding("torch works", "fault", error, (*fixes, _INSTALLATION))
    else:
        yield Finding("torch works", "fine", "torch, FBGEMM and torchrec import")
        yield from gpu_findings(torch, _gpus_of_driver(), visible_gpus)
        if "petastorm" in versions:
            yield from _petastorm_finding()
        yield from _ranks_finding()
    if "pyspark" in versions:
        yield from _spark_finding()


def gpu_findings(torch: Mapping[str, Any], driver: Sequence[str], visible: str | None) -> Iterator[Finding]:
    """Compare the GPUs that torch sees with those that the driver has.

    Args:
        torch: `cuda` version of its build or None, names of `gpus`, `error` of the first use.
        driver: names of the GPUs that `nvidia-smi` lists.
        visible: `CUDA_VISIBLE_DEVICES`.
    """
    gpus = list(torch["gpus"])
    if gpus and not torch["error"]:
        yield Finding("GPU", "fine", f"{len(gpus)} x {gpus[0]}, CUDA {torch['cuda']}")
    elif torch["error"]:
        fixes = (
            "install a driver for this CUDA version",
            "install the torch build of the driver's CUDA version",
        )
        yield Finding(
            "GPU", "fault", f"torch for CUDA {torch['cuda']} cannot use it: {torch['error']}", fixes
        )
    elif driver and torch["cuda"] is None:
        fixes = (
            "make setup EXTRAS=gpu,petastorm,quickstart,docs,dev",
            "install the CUDA builds of torch and FBGEMM",
        )
        yield Finding(
            "GPU", "fault", f"{len(driver)} x {driver[0]} is there, and torch is a CPU build", fixes
        )
    elif driver and visible is not None:
        yield Finding(
            "GPU", "fault", f"CUDA_VISIBLE_DEVICES={visible!r} hides it", ("unset CUDA_VISIBLE_DEVICES",)
        )
    elif driver:
        fixes = ("install a driver for this CUDA version", "with docker: --gpus all")
        yield Finding(
            "GPU", "fault", f"torch for CUDA {torch['cuda']} sees none of the driver's {len(driver)}", fixes
        )
    elif torch["cuda"] is not None:
        fixes = (
            "nothing, if ranks are to run on CPU",
            "in a container: --gpus all, or --device nvidia.com/gpu=all",
        )
        yield Finding("GPU", "note", f"none, and torch is built for CUDA {torch['cuda']}", fixes)
    else:
        yield Finding("GPU", "fine", "none; torch is a CPU build")


def _gpus_of_driver() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()] if told.returncode == 0 else []


def _petastorm_finding() -> Iterator[Finding]:
    found, error = _tried(_PETASTORM)
    if found is None:
        yield Finding("petastorm works", "fault", error, (_INSTALLATION, "pip uninstall -y petastorm"))
    else:
        yield Finding("petastorm works", "fine", "it imports")


def _spark_finding() -> Iterator[Finding]:
    found, error = _tried(_SPARK)
    if found is None:
        yield Finding("Spark works", "fault", error, (_INSTALLATION,))
    elif found:
        said = f"{found['what']}: {found['got']}"
        yield Finding("Spark works", "fault", said, tuple(found["fixes"]))
    else:
        yield Finding("Spark works", "fine", "a local session runs Python on Arrow batches")


def _ranks_finding() -> Iterator[Finding]:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--local-ranks-filter=0",  # both at once would write into each other's lines
        "--no-python",
        sys.executable,
    ]
    printed, error = _run([*launcher, "-c", _RANK])
    if printed is None:
        fixes = (
            "see the host name above: gloo listens where it leads to",
            "export GLOO_SOCKET_IFNAME=lo to try on this host alone",
        )
        yield Finding("ranks meet", "fault", error, fixes)
    else:
        yield Finding("ranks meet", "fine", "two ranks add numbers up over gloo")


def _tried(program: str) -> tuple[dict[str, Any] | None, str]:
    """Run a program that prints a JSON object; return it, or None and what went wrong."""
    printed, error = _run(["-c", program])
    return (None, error) if printed is None else (json.loads(printed.splitlines()[-1]), "")


def _run(arguments: Sequence[str]) -> tuple[str | None, str]:
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_SECONDS:.0f} seconds"
    if done.returncode == 0:
        return done.stdout, ""
    lines = [_OF_RANK.sub("", line.strip()) for line in done.stderr.splitlines() if line.strip()]
    # The last line of a traceback, and what torchrun adds says only that there was one.
    errors = [line for line in lines if _ERROR.match(line) and "ChildFailedError" not in line]
    return None, (errors or lines or [f"it ended with exit code {done.returncode}"])[-1][:400]
