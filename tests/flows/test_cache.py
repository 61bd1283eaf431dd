"""A cache of SAELens's goes through the pipeline; no LM reads its rows again."""

import re
import shutil

import datasets
import pytest
import torch
from datasets import Array2D, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from flows.pipeline import Ending
from flows.training import training as training_flow
from storage import home as homes
from storage.home import Home
from tasks import harvest, training
from tasks import plan as planning
from trilemma import config, hub
from trilemma.config import profile
from trilemma.lm import quiet

pytestmark = [pytest.mark.usefixtures("prefect"), pytest.mark.slow]
HOOKS = {"blocks.0.hook_resid_post": 12, "blocks.1.hook_mlp_out": 20}
HOOK = "blocks.1.hook_mlp_out"
CTX, NUM_ROWS, VOCAB = 16, 400, 64


def columns(num_rows=NUM_ROWS):
    generator = torch.Generator().manual_seed(0)
    found = {
        hook: torch.randn(num_rows, CTX, d_in, generator=generator)
        for hook, d_in in HOOKS.items()
    }
    ids = torch.randint(0, VOCAB, (num_rows, CTX), generator=generator)
    return found | {"token_ids": ids.int()}


def save_cache(folder, bad_row=None):
    """Save a cache in several files, as SAELens does; with a row that has a NaN."""
    values = columns()
    if bad_row is not None:
        values[HOOK][bad_row, 3, 1] = torch.nan
    features = Features(
        {hook: Array2D((CTX, d_in), "float32") for hook, d_in in HOOKS.items()}
    )
    features["token_ids"] = datasets.Sequence(Value("int32"), length=CTX)
    with hub.quiet():
        Dataset.from_dict(values, features=features).save_to_disk(folder, num_shards=3)


def save_lm(folder):
    """Save a tiny LM of random weights, whose tokenizer knows the cache's ids."""
    words = {f"w{i}": i for i in range(VOCAB - 1)} | {"<|endoftext|>": VOCAB - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=CTX,
    )
    with quiet():
        GPTNeoXForCausalLM(settings).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="<|endoftext|>"
        ).save_pretrained(folder)


def run_of(folder, **changes):
    return profile.parse(
        {
            "name": "cached",
            "lm": {"kind": "local", "path": str(folder / "lm")},
            "corpus": {
                "kind": "saelens_cache",
                "path": str(folder / "cache"),
                "eval_fraction": 0.2,
            },
            "harvest": {"hooks": list(HOOKS)},
            "store": {"chunk_mib": 0.01},
            "saes": [{"kind": "topk", "d_sae": 16, "k": 2, "hook": HOOK}],
            "training": {"batch_tokens": 256},
            "sharing": {"tracker": "none"},
        }
        | changes
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a cache, the LM it is said to be of, and a home."""
    found = tmp_path_factory.mktemp("cached")
    save_cache(found / "cache")
    save_lm(found / "lm")
    return found


@pytest.fixture(scope="module")
def plan(folder, prefect):
    """Return the plan of a run whose SAE has been trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(folder / "home"))
        state = training_flow(run_of(folder), force=False, return_state=True)
    assert state.is_completed(), state.message
    return planning.make(run_of(folder), Home(folder / "home"))


@pytest.mark.parametrize("hook", HOOKS)
def test_stored_rows_are_the_cached_ones(plan, hook):
    cached, seen = columns(), []
    for split in ("train", "eval"):
        for batch in harvest.open_store(plan, split).sequences(hook, 8, limit=None):
            rows = batch.document[:, 0]
            assert torch.equal(batch.x, cached[hook][rows])
            assert torch.equal(batch.tokens, cached["token_ids"][rows].long())
            assert (batch.document == rows[:, None]).all()
            seen += rows.tolist()
    assert sorted(seen) == list(range(NUM_ROWS))


def test_first_positions_and_the_lms_special_tokens_are_masked(plan):
    for batch in harvest.open_store(plan, "train").sequences(HOOK, 8, limit=None):
        assert (batch.mask[:, 0] & 2 == 2).all()
        assert ((batch.mask & 1 == 1) == (batch.tokens == VOCAB - 1)).all()


def test_sae_is_trained_on_the_cache(plan):
    sae = training.load_sae(plan.step("training", "topk-k2"), "cpu")
    assert sae.metadata["hook_name"] == HOOK
    assert sae.metadata["dataset_path"] == "saelens_cache"
    assert sae.W_dec.shape == (16, HOOKS[HOOK])


def test_store_says_which_cache_it_is_of(plan):
    provenance = harvest.open_store(plan, "train").provenance
    assert provenance["corpus"] == plan.step("corpus").section
    assert provenance["documents"] == NUM_ROWS
    assert provenance["lm_dtype"] == "float32"


def test_hook_that_the_cache_lacks_fails_in_one_line(plan, folder, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(folder / "home"))
    missing = "blocks.1.hook_resid_post"
    run = run_of(
        folder,
        harvest={"hooks": [missing]},
        saes=[{"kind": "topk", "d_sae": 16, "k": 2}],
    )
    state = training_flow(run, force=False, return_state=True)
    assert state.message == (
        f"harvest.hooks: {str(folder / 'cache')!r} has no {missing!r}; it holds "
        f"{', '.join(HOOKS)}"
    )


def test_cached_row_that_is_not_finite_fails_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path / "home"))
    shutil.copytree(folder / "lm", tmp_path / "lm")
    save_cache(tmp_path / "cache", bad_row=7)
    state = training_flow(run_of(tmp_path), force=False, return_state=True)
    assert state.is_failed()
    assert re.fullmatch(
        rf"harvest: {HOOK} is not finite at row [\d,]+ of (train|eval); .*",
        state.message,
    )


def test_settings_of_an_lms_batches_are_refused_on_a_cache(folder):
    with pytest.raises(config.ProfileError) as error:
        run_of(folder, harvest={"hooks": list(HOOKS), "batch_seqs": 4})
    assert str(error.value) == (
        "harvest.batch_seqs: has no effect on a cache, which no LM has to read; "
        "remove it"
    )


def test_ending_is_cached_the_second_time(plan, folder, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(folder / "home"))
    state = training_flow(run_of(folder), force=False, return_state=True)
    ending = state.result()
    assert isinstance(ending, Ending)
    assert ending.made == ()
