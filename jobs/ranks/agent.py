"""torchrun that ends with the driver.

torchrun alone outlives a driver that was killed, and its ranks with it.
"""

from __future__ import annotations

import sys

from jobs.ranks.interrupts import end_with_parent


def main() -> None:
    """Bind this process to its parent and become torchrun: `PARENT_PID [torchrun arguments]`."""
    end_with_parent(int(sys.argv[1]))
    from torch.distributed.run import main as torchrun

    torchrun(sys.argv[2:])
