"""Which hooks an LM has, how wide they are, and which cannot be harvested."""

import shutil

import pytest

from trilemma import lm as library


def test_each_hook_has_its_own_width(tiny_lm):
    assert tiny_lm.d_in("blocks.0.hook_mlp_out") == 32
    assert tiny_lm.d_in("blocks.0.mlp.hook_post") == 128


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


@pytest.fixture
def weightless(trained, tmp_path):
    """Return the folder of an LM without its weights."""
    return shutil.copytree(
        trained.folder, tmp_path / "lm", ignore=shutil.ignore_patterns("*.safetensors")
    )


def test_hooks_are_known_without_weights(weightless, tiny_lm):
    library.check_hooks(weightless, tiny_lm.hook_names())


def test_a_misspelt_hook_is_refused_without_weights(weightless, tiny_lm):
    misspelt = "blocks.1.hook_resid_pots"
    with pytest.raises(ValueError, match=r"has no hook 'blocks.1") as early:
        library.check_hooks(weightless, ["blocks.0.hook_resid_post", misspelt])
    with pytest.raises(ValueError, match=r"has no hook 'blocks.1") as late:
        tiny_lm.check_hook(misspelt)
    assert str(early.value) == str(late.value)
