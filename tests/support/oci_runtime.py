"""`runc` for hosts without CAP_SYS_RESOURCE, where limits of processes cannot be set: it is told of none.

python3 -m tests.support.oci_runtime as podman calls it; only the standard library is needed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def without_limits(words: list[str]) -> None:
    """Take the limits out of the description of a container, or of a further process in one."""
    folder, file = Path(), None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--bundle", "-b"):
            folder = Path(value or following)
        elif name in ("--process", "-p"):
            file = Path(value or following)
    if "create" in words or "run" in words:
        file = folder / "config.json"
    elif "exec" not in words or file is None:
        return
    described = json.loads(file.read_text())
    described.get("process", described).pop("rlimits", None)
    file.write_text(json.dumps(described))


if __name__ == "__main__":
    without_limits(sys.argv[1:])
    os.execvp("runc", ["runc", *sys.argv[1:]])
