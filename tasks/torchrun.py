"""Several processes of this machine by torchrun, which end when this one does.

What ties them to this one is their standard input. A byte in it asks them to stop when
they have come to a good place; its end, which the kernel brings about however this
process dies, ends them at once. They have no terminal: of Ctrl-C only this process
hears. On their standard output they tell how it goes, a line of JSON each.
"""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, NamedTuple

import torch

from tasks.interruption import Interrupted

_POLL_SECONDS = 0.2
_STOP_SECONDS = 60
_LONGEST_TAIL = 4_000
_ROOT = Path(__file__).parents[1]


class RankError(ValueError):
    """A rank was killed before it was done."""


class Told(NamedTuple):
    """What a rank told."""

    what: str
    values: tuple[Any, ...]
    """JSON values (hence `Any`), which follow from `what`."""


def told_by(
    module: str, job: object, *, num_ranks: int, asked: Callable[[], bool]
) -> Generator[Told, None, None]:
    """Run a module in so many ranks on a job; yield what they tell until all are done.

    Each has as many CPU threads as this process: sums depend on how many there are.

    Raises:
        Interrupted: `asked` said so, and the ranks have stopped.
        ValueError: a rank told of a user's mistake, a full disk, too little memory.
        RankError: a rank was killed.
        RuntimeError: a bug in a rank, with its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="trilemma-") as folder:
        path, log = Path(folder) / "job", Path(folder) / "log"
        path.write_bytes(pickle.dumps(job))
        with _started(module, path, log, num_ranks) as process:
            for told in _lines(process, asked):
                if told.what == "stopped":
                    raise Interrupted(*told.values)
                if told.what == "failed":
                    raise ValueError(*told.values)
                yield told
            if process.wait() == 0:
                return
        tail = log.read_text(errors="replace")[-_LONGEST_TAIL:]
        if "SIGKILL" in tail:
            raise RankError(
                "training: a rank was killed; if it was for memory, lower "
                "compute.ranks_per_sae or training.batch_tokens"
            )
        raise RuntimeError(f"training: a rank failed:\n{tail}")


@contextlib.contextmanager
def _started(
    module: str, job: Path, log: Path, num_ranks: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """Give torchrun at work, and end it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr=127.0.0.1", f"--nproc-per-node={num_ranks}"]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "-m", module, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env=os.environ
            | {
                "OMP_NUM_THREADS": str(torch.get_num_threads()),
                "PYTHONPATH": os.pathsep.join(paths),
            },
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _lines(
    process: "subprocess.Popen[bytes]", asked: Callable[[], bool]
) -> Iterator[Told]:
    """Yield what is told until torchrun ends; pass a wish to stop on, once."""
    assert process.stdin is not None
    assert process.stdout is not None
    lines: SimpleQueue[bytes] = SimpleQueue()
    # Ends with the ranks, which alone hold the other end of the pipe.
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    is_asked = False
    while True:
        has_ended = process.poll() is not None
        if has_ended:
            process.stdin.close()  # or ranks that outlive torchrun would go on
            reader.join(_STOP_SECONDS)
        elif asked() and not is_asked:
            is_asked = True
            with contextlib.suppress(BrokenPipeError):  # they have just ended
                os.write(process.stdin.fileno(), b"s")
        try:
            what, *values = json.loads(lines.get(timeout=_POLL_SECONDS))
        except Empty:
            if has_ended:
                return
            continue
        yield Told(what, tuple(values))


def _read(pipe: IO[bytes], lines: "SimpleQueue[bytes]") -> None:
    with pipe:
        for line in pipe:
            lines.put(line)
