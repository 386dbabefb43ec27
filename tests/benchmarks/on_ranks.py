"""Measures on the ranks of this host."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from jobs.launch import launch

ASKED, RESULT = "asked.json", "result.json"


def figures_of_ranks(function: str, ranks: int, **asked: int) -> dict[str, list[dict[str, float]]]:
    """Run `module:function` on CPU ranks.

    Args:
        function: takes a folder and the rank's context; rank 0 writes `RESULT` there.
        ranks: their number.
        asked: what the ranks read from `ASKED`.

    Returns:
        What rank 0 has written: by case, the figures of each round.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / ASKED).write_text(json.dumps(asked))
        on = "process" if ranks == 1 else "local"
        launch(function, folder, on=on, ranks=ranks, device="cpu", saves=False)
        figures: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return figures
