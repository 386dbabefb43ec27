"""The one-page HTML report of a prepared data set: distributions, drift, leaks. Neither Spark nor torch.

```python
from trainer.reporting.data import write_data_report

report = write_data_report("prepared/ml-100k")  # prepared/ml-100k/report.html
[finding.kind for finding in report.findings]
```
"""

from trainer.reporting.data.findings import Finding
from trainer.reporting.data.page import DataReport, write_data_report

__all__ = ["DataReport", "Finding", "write_data_report"]
