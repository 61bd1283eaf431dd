"""An embedded LM of toy size, trained once for all tests that need an LM."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from trilemma import embedded
from trilemma.config.sources import EmbeddedLM
from trilemma.lm import LM

TINY = EmbeddedLM(
    kind="embedded",
    vocab_size=400,
    num_layers=3,
    d_model=32,
    num_heads=2,
    ctx=32,
    train_tokens=8 * 32 * 60,
)


class Trained(NamedTuple):
    folder: Path
    result: embedded.EmbeddedResult
    progress: list[embedded.TrainingProgress]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("embedded")
    progress: list[embedded.TrainingProgress] = []
    result = embedded.train(TINY, folder, report=progress.append)
    return Trained(folder, result, progress)


@pytest.fixture(scope="session")
def tiny_lm(trained: Trained) -> LM:
    return LM.load(
        trained.folder,
        dtype=torch.float32,
        device="cpu",
        processing="none",
        attention="eager",
    )
