"""SAELens itself reads what is saved, and encodes and decodes the same."""

from pathlib import Path

import pytest
import sae_lens
import torch
from tests_peers.trained import CONFIGS, D_IN, D_SAE, rows, trained

from trilemma.config.saes import SAEConfig, TopK
from trilemma.config.training import Training
from trilemma.sae import SAE
from trilemma.start import Start
from trilemma.training import Member

D_OUT = 12
# Its transcoders have ReLU latents or thresholds, and no other code.
SAELENS_TRANSCODERS = ("relu", "group", "jumprelu", "batchtopk", "matryoshka")


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_saelens_encodes_and_decodes_the_same(
    config: SAEConfig, tmp_path: Path
) -> None:
    ours, x = trained(config), rows()
    ours.save(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        acts = ours.encode(x)
        torch.testing.assert_close(theirs.encode(x), acts, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            theirs.decode(acts), ours.decode(acts), rtol=0, atol=1e-5
        )


def test_saelens_refuses_a_crosscoder_by_its_name(tmp_path: Path) -> None:
    ours = trained(TopK(kind="topk", d_sae=D_SAE, k=4))
    ours.widths = (4, D_IN - 4)
    ours.save(tmp_path)
    with pytest.raises(KeyError, match="trilemma_topk_crosscoder"):
        sae_lens.SAE.load_from_disk(tmp_path)


@pytest.mark.parametrize("stops_at_repeat", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("is_centred", [True, False])
def test_a_matching_pursuit_of_saelens_finds_the_same_codes(
    tmp_path: Path, stops_at_repeat: bool, threshold: float, is_centred: bool
) -> None:
    theirs = sae_lens.MatchingPursuitSAE(
        sae_lens.MatchingPursuitSAEConfig(
            d_in=D_IN,
            d_sae=D_SAE,
            max_iterations=9,
            residual_threshold=threshold,
            stop_on_duplicate_support=stops_at_repeat,
            apply_b_dec_to_input=is_centred,
        )
    )
    with torch.no_grad():
        theirs.W_dec.data = torch.nn.functional.normalize(
            torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(1))
        )
        theirs.b_dec.data = torch.ones(D_IN)
    theirs.save_model(tmp_path)
    ours, x = SAE.load(tmp_path), rows()
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def transcoder(config: SAEConfig, *, has_skip: bool) -> SAE:
    """Return a transcoder after a few steps, from large inputs to small outputs."""
    x = rows()
    y = 0.01 * torch.relu(x[:, :D_OUT]) + 0.03 * x[:, -D_OUT:]
    read, wanted = (
        Start(each.shape[1], each.mean(0), float(each.square().sum(1).mean()))
        for each in (x, y)
    )
    member = Member(
        config.model_copy(
            update={"hook": "a", "target_hook": "b", "skip": has_skip, "lr": 1e-2}
        ),
        Training(log_every_steps=5),
        start=read,
        target_start=wanted,
        num_steps=10,
        key="one",
        device="cpu",
    )
    for first in range(0, len(x), 64):
        batch = slice(first, first + 64)
        member.step(x[batch], y=y[batch])
    return member.export()


@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c.kind in SAELENS_TRANSCODERS], ids=str
)
def test_saelens_predicts_the_same_with_a_transcoder(
    config: SAEConfig, has_skip: bool, tmp_path: Path
) -> None:
    ours, x = transcoder(config, has_skip=has_skip), rows()
    assert (ours.d_in, ours.d_out) == (D_IN, D_OUT)
    ours.save(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        acts = ours.encode(x)
        assert bool((acts > 0).any())
        torch.testing.assert_close(theirs.encode(x), acts, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "transcoder",
        "skip_transcoder",
        "jumprelu_transcoder",
        "jumprelu_skip_transcoder",
    ],
)
def test_a_transcoder_that_saelens_saved_is_read(name: str, tmp_path: Path) -> None:
    made, config = sae_lens.registry.get_sae_class(name)
    theirs, x = (
        made(config(d_in=D_IN, d_sae=D_SAE, d_out=D_OUT, apply_b_dec_to_input=False)),
        rows(),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.rand(weight.shape, generator=generator) - 0.4)
    theirs.save_model(tmp_path)
    ours = SAE.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def test_saelens_keeps_the_metadata(tmp_path: Path) -> None:
    ours = trained(CONFIGS[0])
    ours.metadata["hook_name"] = "blocks.2.hook_resid_post"
    ours.save(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    assert theirs.cfg.metadata.trilemma["config"]["kind"] == "relu"


def test_an_sae_that_saelens_saved_is_read(tmp_path: Path) -> None:
    config = sae_lens.TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4)
    theirs, x = sae_lens.TopKSAE(config), rows()
    theirs.save_model(tmp_path)
    ours = SAE.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
