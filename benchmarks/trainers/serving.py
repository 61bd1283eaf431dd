"""What the process of every contestant does: load, train on demand, hand over weights.

A line `run N` trains for N steps and is answered with the seconds that took; `save
PATH` writes the weights. The first step is not timed: it is watched for its precision.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm)


class Contest(NamedTuple):
    """What a contestant is told; all of one kind and shape get the same weights."""

    kind: str
    """topk, batchtopk, relu or jumprelu."""
    d_in: int
    d_sae: int
    k: int
    """What TopK kinds keep of a row, and how many features a row has."""
    l0: int
    """What relu and jumprelu are to come out at."""
    batch: int
    """Rows in a step."""
    coefficient: float | None
    """Weight of the sparsity penalty, in the contestant's own loss."""
    lr: float
    """Peak of the learning rate: linear warm-up, then linear decay to 0."""
    steps: int
    """Steps in all."""
    warmup_steps: int
    """Steps over which the learning rate and the penalty rise."""
    threads: int
    device: str
    rows: str
    """File with the rows to train on, over and over."""
    start: str
    """File with the initial weights, in the names of `Trainer.weights`."""


class Trainer(Protocol):
    """A contestant, as its process sees it."""

    def step(self, index: int, x: Tensor) -> None:
        """Take the step of this index, counted from 0, on a batch."""

    def weights(self) -> dict[str, Tensor]:
        """Return W_enc, b_enc, W_dec, b_dec and, for JumpReLU, threshold.

        As trilemma.sae.SAE has them: pre-activations are (x - b_dec) W_enc + b_enc.
        """


def serve(make: Callable[[Contest, Tensor, dict[str, Tensor]], Trainer]) -> None:
    """Answer the lines on standard input with a trainer made from the arguments."""
    contest = Contest(**json.loads(sys.argv[1]))
    torch.set_num_threads(contest.threads)
    rows = load_file(contest.rows, device=contest.device)["train"]
    trainer = make(contest, rows, load_file(contest.start, device=contest.device))
    batches = rows.split(contest.batch)
    with _Watch((contest.batch, contest.d_sae)) as watch:
        trainer.step(0, batches[0])
    print(json.dumps({"dtype": str(watch.dtype).removeprefix("torch.")}), flush=True)
    done = 1
    for line in sys.stdin:
        command, word = line.split()
        began = time.perf_counter()
        if command == "run":
            for index in range(done, done + int(word)):
                trainer.step(index, batches[index % len(batches)])
            done += int(word)
        else:
            tensors = {name: w.contiguous() for name, w in trainer.weights().items()}
            save_file(tensors, word)
        if contest.device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


class _Watch(TorchDispatchMode):
    """Remembers in which dtype the first product of a given shape was taken."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None
        self._shape = shape

    # `Any`: operators and their arguments, as torch hands them over.
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (
            self.dtype is None
            and func.overloadpacket in _PRODUCTS
            and result.shape == self._shape
        ):
            self.dtype = [arg for arg in args if isinstance(arg, Tensor)][-1].dtype
        return result
