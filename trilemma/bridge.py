"""Changes to a loaded bridge: folded weights, and the same values with less work."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_PROBE_SEQS, _PROBE_TOKENS = 2, 8
_RELATIVE_ERROR = {torch.float32: 1e-3}
_RELATIVE_ERROR_16_BITS = 0.1

# TransformerLens's bridge and its parts, whose types trilemma.lm alone may import.
Bridge = Any
Component = Any

logger = logging.getLogger(__name__)


def fold(bridge: Bridge) -> None:
    """Fold LayerNorms into the weights that follow, centre what writes and unembeds.

    Raises:
        ValueError: this architecture's norms cannot be folded.

    """
    refusal = (
        f"lm.processing: {_architecture(bridge)} cannot be folded; set "
        "lm.processing=none"
    )
    # Where the first mark is missing, TransformerLens warns and folds nothing.
    for mark in ("supports_fold_ln", "supports_compatibility_mode"):
        if not getattr(bridge.adapter, mark, True):
            raise ValueError(refusal)
    before = _centred_logits(bridge)
    try:
        bridge.enable_compatibility_mode(disable_warnings=True)
    except (RuntimeError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(refusal) from error
    if not _agree(before, _centred_logits(bridge)):
        raise ValueError(refusal)


def keep_no_cache(bridge: Bridge) -> None:
    """Let no forward pass store keys and values: nothing is read token by token."""
    bridge.original_model.config.get_text_config().use_cache = False


def skip_idle_norms(bridge: Bridge) -> None:
    """Let norms compute their scale for hooks only where a hook reads it.

    No value changes: the output of these norms is the wrapped module's own.
    """
    for part in bridge.modules():
        if getattr(part, "use_native_layernorm_autograd", False):
            _delegate(part, [part.hook_scale, part.hook_normalized])


def use_sdpa(bridge: Bridge, *, is_folded: bool) -> bool:
    """Switch to PyTorch's fused attention, and return whether that can be done.

    Attention then runs in the wrapped module, with values equal to rounding; a block
    inside whose attention a hook reads is computed as before.
    """
    model = bridge.original_model
    attentions = [part for part in bridge.modules() if _reimplements_attention(part)]
    # Folding changes split queries, keys and values, not the projection they are from.
    is_stale = is_folded and any(hasattr(p, "split_qkv_matrix") for p in attentions)
    if is_stale or not getattr(model, "_supports_sdpa", False):
        logger.info("lm: %s has no fused attention", _architecture(bridge))
        return False
    before = _centred_logits(bridge)
    model.set_attn_implementation("sdpa")
    for part in attentions:
        outside = {id(part.hook_in), id(part.hook_out)}
        points = [point for point in part.modules() if hasattr(point, "fwd_hooks")]
        _delegate(part, [point for point in points if id(point) not in outside])
    if _agree(before, _centred_logits(bridge)):
        return True
    for part in attentions:
        object.__delattr__(part, "forward")
    model.set_attn_implementation("eager")
    logger.info("lm: %s has another fused attention", _architecture(bridge))
    return False


def _delegate(part: Component, inner: Iterable[Any]) -> None:
    """Let a part call the module it wraps, unless a hook inside it is read."""
    reimplemented = part.forward
    points = tuple(inner)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if any(point.fwd_hooks or point.bwd_hooks for point in points):
            return reimplemented(*args, **kwargs)
        if "hidden_states" in kwargs:
            kwargs["hidden_states"] = part.hook_in(kwargs["hidden_states"])
        else:
            args = (part.hook_in(args[0]), *args[1:])
        output = part.original_component(*args, **kwargs)
        if isinstance(output, tuple):
            return (part.hook_out(output[0]), *output[1:])
        return part.hook_out(output)

    # The bridge's own assignment would reach through to the wrapped module.
    object.__setattr__(part, "forward", forward)


def _reimplements_attention(part: Component) -> bool:
    for kind in type(part).__mro__:
        if kind.__name__ == "AttentionBridge":
            return bool(type(part).forward is not kind.__dict__["forward"])
    return False


@torch.inference_mode()
def _centred_logits(bridge: Bridge) -> Tensor:
    """Return logits of a few tokens, less the constant that a softmax ignores."""
    count = _PROBE_SEQS * _PROBE_TOKENS
    tokens = torch.arange(count, device=bridge.W_E.device) % len(bridge.W_E)
    logits: Tensor = bridge(tokens.view(_PROBE_SEQS, -1), return_type="logits")
    return logits - logits.mean(-1, keepdim=True)


def _agree(before: Tensor, after: Tensor) -> bool:
    """Return whether logits are equal to rounding, as far as one can tell."""
    # An LM that overflows its dtype is the harvest's to report.
    if not bool(before.isfinite().all()):
        return True
    allowed = _RELATIVE_ERROR.get(before.dtype, _RELATIVE_ERROR_16_BITS)
    return bool((after - before).float().norm() <= allowed * before.float().norm())


def _architecture(bridge: Bridge) -> str:
    return type(bridge.original_model).__name__
