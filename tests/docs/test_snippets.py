"""The documents: snippets run, commands exist, links lead somewhere."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from flows.__main__ import app
from storage import artifacts
from storage.places import LocalPlace
from storage.store_writer import (
    ChunkData,
    HookChunk,
    Layout,
    StoreWriter,
    forget_commits,
)
from trilemma import config
from trilemma.sae import SAE

DOCUMENTS = sorted([Path("README.md"), *Path("docs").glob("*.md")])
STORE = "artifacts/harvest/KEY/train.zarr"
HOOK = "blocks.2.hook_resid_post"
CTX, D_IN, NUM_SEQS = 16, 8, 128


def blocks(language):
    for path in DOCUMENTS:
        found = re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)
        for index, text in enumerate(found):
            yield pytest.param(text, id=f"{path}-{index}")


@pytest.fixture(scope="module")
def documents():
    return {str(path): path.read_text() for path in DOCUMENTS}


@pytest.fixture
def checkout(tmp_path, monkeypatch, documents):
    """Return a folder with a store in bfloat16 and an SAE where the documents say."""
    harvest = tmp_path / "artifacts" / "harvest" / "KEY"
    harvest.mkdir(parents=True)
    x = torch.randn(NUM_SEQS * CTX, D_IN, generator=torch.Generator().manual_seed(0))
    stored = x.bfloat16().view(torch.uint16).numpy()
    place = LocalPlace(harvest)
    layout = Layout(CTX, {HOOK: D_IN}, "bfloat16", 1 << 20, "none", None, {})
    writer = StoreWriter(place, "train", layout, num_seqs=NUM_SEQS)
    tokens = np.zeros((NUM_SEQS, CTX), np.int32)
    hooks = {HOOK: HookChunk(stored, x.norm(dim=1).numpy(), None)}
    writer.write_part(0, [ChunkData(tokens, tokens.astype(np.int64), hooks, {})])
    known = writer.finish(
        lambda chunk: np.zeros(NUM_SEQS * CTX, np.uint8), {HOOK: {}}, {HOOK: {}}
    )
    forget_commits(place)
    artifacts.commit(
        place,
        harvest,
        stage="harvest",
        key="KEY",
        version=1,
        config={},
        parents={},
        known=known,
    )
    weights = {"W_enc": torch.eye(D_IN), "W_dec": torch.eye(D_IN)}
    biases = {"b_enc": torch.zeros(D_IN), "b_dec": torch.zeros(D_IN)}
    folder = tmp_path / "artifacts" / "training" / "KEY" / "sae"
    SAE("topk", k=2, **weights, **biases).save(folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme_opens_a_store_and_an_sae(checkout, documents):
    names = run(documents["README.md"], {})
    assert names["store"].dtypes[HOOK] == "bfloat16"
    assert names["x_hat"].shape == names["x"].shape == (64, D_IN)


def test_python_of_the_stores_format_reads_bfloat16(checkout, documents):
    names = run(documents["docs/store.md"], {"path": STORE})
    assert names["x"].dtype == torch.bfloat16


def test_python_of_the_theory_gives_a_tax(documents):
    names = run(documents["docs/theory.md"], {})
    assert names["tax"] == pytest.approx(16 * 0.08 - (1 - 0.88**8))
    assert names["lost"] == pytest.approx(names["tax"])


def run(text, names):
    """Run the Python blocks of a document in order, as in one notebook."""
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block.replace("<key>", "KEY"), names)
    return names


@pytest.mark.parametrize("text", list(blocks("(?:sh|bash)")))
def test_commands_of_the_command_line_exist(text):
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] == ["python", "-m", "flows"]:
            assert words[3] in app or words[3] == "--help", line
            if len(words) > 4 and words[4].startswith("configs/"):
                assert Path(words[4]).exists(), line
        elif words[:1] == ["make"]:
            assert f"\n{words[1]}:" in Path("Makefile").read_text(), line


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_yaml_is_part_of_a_profile(text):
    values = yaml.safe_load(Path("configs/quickstart.yaml").read_text())
    assert config.parse(values | yaml.safe_load(text)).family()


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
