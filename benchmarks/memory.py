"""How much memory a benchmark's process holds, as Linux counts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def held(work: Callable[[], object] | None = None) -> float:
    """Megabytes of memory that this process holds now, or held at most while it worked."""
    if work is not None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from now
        work()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:" if work is None else "VmHWM:")[1].split()[0]) / 1000
