"""What SAELens's own runner caches is read as SAELens reads it."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import tokenizers
import torch
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from tokenizers import models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from trilemma.saelens_cache import Cache

# SAELens warns of what it does with the texts.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sae_lens")
CTX, D_IN, HOOK = 16, 32, "transformer.h.0"
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny GPT-2 of random weights that reads bytes."""
    folder = tmp_path_factory.mktemp("lm")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, bos_token=END, pad_token=END
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_embd=D_IN, n_layer=2, n_head=2, n_positions=CTX
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["float32", "float16"])
def cached(
    lm: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[Path, datasets.Dataset]:
    """Return the folder that SAELens filled, and the data set that it gives."""
    texts = [f"Text number {i} tells of {i * i} things." for i in range(60)]
    config = CacheActivationsRunnerConfig(
        dataset_path="texts of this test",
        model_name=str(lm),
        model_class_name="AutoModelForCausalLM",
        model_batch_size=4,
        hook_name=HOOK,
        d_in=D_IN,
        context_size=CTX,
        training_tokens=48 * CTX,
        # Several files: so many tokens go in each.
        buffer_size_gb=16 * CTX * D_IN * 4 / 1e9,
        new_cached_activations_path=str(tmp_path / "cache"),
        shuffle=False,
        dtype=request.param,
        device="cpu",
    )
    runner = CacheActivationsRunner(
        config, override_dataset=datasets.Dataset.from_dict({"text": texts})
    )
    return tmp_path / "cache", runner.run()


def test_tokens_and_activations_are_those_of_saelens(
    cached: tuple[Path, datasets.Dataset],
) -> None:
    folder, theirs = cached
    cache = Cache.open(folder)
    assert len(list(folder.glob("*.arrow"))) > 1
    assert cache.hooks == (HOOK,)
    assert (cache.num_rows, cache.ctx, cache.d_in(HOOK)) == (len(theirs), CTX, D_IN)
    rows = np.random.default_rng(0).permutation(cache.num_rows)
    expected = theirs.with_format("torch")[rows]
    assert np.array_equal(cache.tokens(rows), expected["token_ids"].numpy())
    found = cache.activations(HOOK, rows)
    assert str(found.dtype) == f"torch.{cache.dtype}"
    assert torch.equal(found, expected[HOOK].to(found.dtype))


def test_activations_are_the_lms_own(
    cached: tuple[Path, datasets.Dataset], lm: Path
) -> None:
    cache = Cache.open(cached[0])
    model = GPT2LMHeadModel.from_pretrained(lm)
    tokens = torch.from_numpy(cache.tokens(slice(0, 8))).long()
    with torch.no_grad():
        hidden = model(tokens, output_hidden_states=True).hidden_states[1]
    found = cache.activations(HOOK, slice(0, 8))
    torch.testing.assert_close(found.float(), hidden, rtol=1e-3, atol=1e-3)
