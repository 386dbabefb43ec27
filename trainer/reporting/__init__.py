"""The one-page HTML report of a run.

```python
from trainer.reporting import write_report

write_report(Path("runs/ml-100k"))  # runs/ml-100k/report.html
```
"""

from trainer.reporting.page import write_report

__all__ = ["write_report"]
