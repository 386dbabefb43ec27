"""The wheel of the bundle: shardrec's, without its requirements, which init.sh meets.

    python databricks/build_wheel.py        writes databricks/dist/shardrec-*.whl; needs uv

Databricks installs the wheels of a job with what they ask for. pip would then put the CUDA build of FBGEMM
over the CPU build, since torchrec asks for it, and a pyspark of its own beside the runtime's.
"""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "databricks" / "dist"


def without_requirements(wheel: Path) -> None:
    """Rewrite a wheel: its metadata asks for nothing, and its record says so."""
    with zipfile.ZipFile(wheel) as archive:
        members = {item: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for item, content in members.items():
            if item.filename.endswith(".dist-info/METADATA"):
                content = b"".join(_others(content, b"Requires-Dist:"))
            elif item.filename.endswith(".dist-info/RECORD"):
                # A line without hash and size: the file is not checked.
                content = b"".join(
                    line.split(b",")[0] + b",,\n" if b".dist-info/METADATA," in line else line
                    for line in content.splitlines(keepends=True)
                )
            archive.writestr(item, content)


def _others(content: bytes, start: bytes) -> list[bytes]:
    return [line for line in content.splitlines(keepends=True) if not line.startswith(start)]


if __name__ == "__main__":
    for old in DIST.glob("shardrec-*.whl"):
        old.unlink()
    subprocess.run(["uv", "build", "--wheel", "--out-dir", str(DIST), str(ROOT)], check=True)
    [built] = DIST.glob("shardrec-*.whl")
    without_requirements(built)
