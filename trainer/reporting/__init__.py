"""The one-page HTML reports: of a run here, of a data set in `trainer.reporting.data`.

```python
from trainer.reporting import write_report

write_report(Path("runs/ml-100k"))  # runs/ml-100k/report.html
```
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.schema import MANIFEST_FILE

if TYPE_CHECKING:
    from trainer.reporting.page import write_report as write_report

__all__ = ["is_dataset", "write_report"]


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is a data set rather than a run, which holds a manifest too."""
    of_a_run = any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl"))
    return (folder / MANIFEST_FILE).is_file() and not of_a_run


def __getattr__(name: str) -> Any:
    # Loaded on first use: a run's report reads its plan with torch, which the data report does without.
    if name != "write_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainer.reporting import page

    return page.write_report
