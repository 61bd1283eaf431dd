"""An SAE at inference."""

from pathlib import Path

import torch

from trilemma.formats.saelens import Activation
from trilemma.sae import SAE


def an_sae(activation: Activation = "topk") -> SAE:
    generator = torch.Generator().manual_seed(0)
    return SAE(
        activation,
        W_enc=torch.randn(6, 16, generator=generator),
        b_enc=torch.randn(16, generator=generator),
        W_dec=torch.randn(16, 6, generator=generator),
        b_dec=torch.randn(6, generator=generator),
        threshold=torch.full((16,), 0.4) if activation == "jumprelu" else None,
        k=3 if activation == "topk" else None,
        metadata={"hook_name": "here"},
    )


def test_forward_is_decode_of_encode() -> None:
    sae, x = an_sae(), torch.randn(4, 6)
    assert torch.equal(sae(x), sae.decode(sae.encode(x)))


def test_sequences_encode_like_their_rows() -> None:
    sae, x = an_sae(), torch.randn(2, 3, 6)
    assert torch.equal(sae.encode(x).view(6, 16), sae.encode(x.view(6, 6)))


def test_the_decoder_bias_is_taken_off_before_encoding() -> None:
    sae = an_sae("relu")
    acts = sae.encode(sae.b_dec[None])
    torch.testing.assert_close(acts, torch.relu(sae.b_enc)[None])


def test_topk_sae_keeps_at_most_k_latents() -> None:
    acts = an_sae("topk").encode(torch.randn(50, 6))
    assert int((acts != 0).sum(1).max()) == 3


def test_repr_names_the_activation_and_the_sizes() -> None:
    assert repr(an_sae("topk")) == "SAE(topk, d_in=6, d_sae=16, k=3)"
    assert repr(an_sae("jumprelu")) == "SAE(jumprelu, d_in=6, d_sae=16)"


def test_an_sae_that_was_saved_and_loaded_encodes_alike(tmp_path: Path) -> None:
    x = torch.randn(9, 6)
    activations: tuple[Activation, ...] = ("relu", "topk", "jumprelu")
    for activation in activations:
        sae = an_sae(activation)
        sae.save(tmp_path / activation)
        loaded = SAE.load(tmp_path / activation)
        assert torch.equal(loaded.encode(x), sae.encode(x))
        assert torch.equal(loaded(x), sae(x))


def test_metadata_is_kept(tmp_path: Path) -> None:
    an_sae("topk").save(tmp_path)
    assert SAE.load(tmp_path).metadata["hook_name"] == "here"
