"""Read an epoch of a store in a process of its own, and print its peak memory."""

import sys
from pathlib import Path

from benchmarks.random_store import HOOK
from storage.order import TrainingOrder
from storage.store import Store

_BATCH_ROWS = 4096


def main(url: str, open_chunks: int) -> None:
    """Print the most bytes that were resident, mapped chunks included."""
    order = TrainingOrder(
        Store.open(url), HOOK, seed=0, batch_tokens=_BATCH_ROWS, open_chunks=open_chunks
    )
    for _ in order.batches(0, order.steps_per_epoch, prefetch=True):
        pass
    # What `getrusage` says would include the parent's peak.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = [x for x in status.splitlines() if x.startswith("VmHWM:")]
    print(int(peak.split()[1]) << 10)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
