"""The language model under study: load it, read its activations, splice into it."""

import contextlib
import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from trilemma import bridge as bridges
from trilemma import file_digests, hub

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)
_TOKENIZER_SETTINGS = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_BLOCK = re.compile(r"blocks\.\d+\.")

Processing = Literal["none", "folded"]
Attention = Literal["eager", "sdpa"]
Tokenizer = PreTrainedTokenizerBase


class LM:
    """A decoder with TransformerLens's hook names, for reading and for splicing."""

    def __init__(
        self, bridge: TransformerBridge, tokenizer: Tokenizer, attention: Attention
    ) -> None:
        self._bridge = bridge
        self._hook_points = bridge.hook_dict
        self.tokenizer = tokenizer
        self.attention = attention
        """What computes attention: eager where the architecture has no sdpa."""

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype,
        device: str | torch.device,
        processing: Processing,
        attention: Attention,
    ) -> "LM":
        """Return the LM in a Hugging Face folder on this machine, without a network.

        Args:
            folder: What `save_pretrained` leaves.
            dtype: Of weights and activations.
            device: Where they are.
            processing: `none` for weights as published; `folded` for LayerNorms folded
                into the weights after them and for centred weights.
            attention: `eager` for TransformerLens's values to the bit; `sdpa` for the
                same to rounding, faster on long contexts.

        Raises:
            ValueError: there is no such folder, it lacks something, or its
                architecture cannot be folded.

        """
        folder = _checked_folder(folder)
        if not any(folder.glob("*.safetensors")):
            raise ValueError(
                f"lm.path: {str(folder)!r} holds no .safetensors file; save the model "
                "with save_pretrained"
            )
        with quiet(), torch.random.fork_rng(devices=[]):
            # Weights that the folder lacks are drawn; the same ones on every load.
            torch.manual_seed(0)
            bridge = TransformerBridge.boot_transformers(
                str(folder),
                dtype=dtype,
                device=device,
                # The bridge adds tokens to its own copy, so it must not share ours.
                tokenizer=load_tokenizer(folder),
            )
        bridge.eval()
        bridges.keep_no_cache(bridge)
        is_folded = processing == "folded"
        if is_folded:
            bridges.fold(bridge)
        bridge.requires_grad_(False)
        bridges.skip_idle_norms(bridge)
        if attention == "sdpa" and not bridges.use_sdpa(bridge, is_folded=is_folded):
            attention = "eager"
        return cls(bridge, load_tokenizer(folder), attention)

    def __repr__(self) -> str:
        config = self._bridge.cfg
        return (
            f"LM({config.architecture}, num_layers={self.num_layers}, "
            f"d_model={config.d_model}, vocab_size={self.vocab_size}, "
            f"dtype={config.dtype}, device={self.device})"
        )

    @property
    def vocab_size(self) -> int:
        """Return the number of rows of the input embedding."""
        return int(self._bridge.W_E.shape[0])

    @property
    def num_layers(self) -> int:
        """Return the number of transformer blocks."""
        return int(self._bridge.cfg.n_layers)

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        device: torch.device = self._bridge.W_E.device
        return device

    @property
    def predicts_next(self) -> bool:
        """Return whether the logits are of the next token, as an encoder's are not."""
        # TransformerLens 3.9 calls an encoder's attention causal; its name is right.
        return "MaskedLM" not in str(self._bridge.cfg.architecture)

    @property
    def pad_id(self) -> int | None:
        """Return the id that does nothing but fill up sequences; None without one."""
        return pad_id(self.tokenizer)

    def hook_names(self) -> tuple[str, ...]:
        """Return every name that a hook may be given by, aliases included."""
        return tuple(self._hook_points)

    def check_hook(self, hook: str) -> None:
        """Raise ValueError, with the nearest names, unless the LM has this hook."""
        _check_hook(hook, self.hook_names())

    def d_in(self, hook: str) -> int:
        """Return the width of a hook's activations, found by a tiny forward pass.

        Raises:
            ValueError: the hook is unknown or has no vector for each token.

        """
        batch, pos = 2, 3
        tokens = torch.zeros(batch, pos, dtype=torch.int64)
        self.check_hook(hook)
        try:
            shape = tuple(self.activations(tokens, (hook,))[hook].shape)
        except ValueError as error:
            raise ValueError(
                f"harvest.hooks: {hook!r} cannot be read ({error}); name another hook"
            ) from error
        if len(shape) != len(("batch", "pos", "d_in")) or shape[:2] != (batch, pos):
            raise ValueError(
                f"harvest.hooks: {hook!r} gives shape {shape} for {batch} x {pos} "
                "tokens; name a hook with one vector for each token, such as "
                "blocks.0.hook_resid_post"
            )
        return int(shape[2])

    @torch.inference_mode()
    def activations(
        self, tokens: Int[Tensor, "batch pos"], hooks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return `[batch, pos, d_in]` of each hook from one forward pass.

        The pass ends as soon as the deepest of the hooks has fired.
        """
        found: dict[str, Tensor] = {}

        def keeping(name: str) -> Callable[..., None]:
            def keep(value: Tensor | tuple[Tensor, ...], *, hook: object) -> None:
                found[name] = value if isinstance(value, Tensor) else value[0]
                if len(found) == len(set(hooks)):
                    raise _AllFoundError

            return keep

        for hook in hooks:
            self.check_hook(hook)
        with contextlib.suppress(_AllFoundError):
            self._run(tokens, [(name, keeping(name)) for name in dict.fromkeys(hooks)])
        for hook in hooks:
            if hook not in found:
                raise ValueError(f"{hook!r} never fires in this LM")
        return found

    @torch.inference_mode()
    def logits(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of the next token, float32."""
        return self._run(tokens, []).float()

    def logits_replaced(
        self,
        tokens: Int[Tensor, "batch pos"],
        hook: str,
        x_hat: Float[Tensor, "batch pos d_in"],
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits when `x_hat` takes the place of a hook's activations.

        They have a gradient in `x_hat` where it has one.
        """
        return self.logits_all_replaced(tokens, {hook: x_hat})

    def logits_all_replaced(
        self,
        tokens: Int[Tensor, "batch pos"],
        x_hats: Mapping[str, Float[Tensor, "batch pos _"]],
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits when the activations of several hooks are replaced."""

        def replacing(x_hat: Tensor) -> Callable[..., object]:
            def replace(value: Tensor | tuple[Tensor, ...], *, hook: object) -> object:
                if isinstance(value, Tensor):
                    return x_hat.to(value)
                return (x_hat.to(value[0]), *value[1:])

            return replace

        for hook in x_hats:
            self.check_hook(hook)
        hooks = [(hook, replacing(x_hat)) for hook, x_hat in x_hats.items()]
        return self._run(tokens, hooks).float()

    @torch.inference_mode()
    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """Return the input embedding, float32."""
        weight: Tensor = self._bridge.W_E
        return weight.float()

    def special_ids(self) -> frozenset[int]:
        """Return the ids of the tokenizer's special tokens."""
        return special_ids(self.tokenizer)

    def _run(
        self, tokens: Tensor, hooks: Sequence[tuple[str, Callable[..., object]]]
    ) -> Tensor:
        logits: Tensor = self._bridge.run_with_hooks(
            tokens.to(self.device, torch.int64), fwd_hooks=list(hooks)
        )
        return logits


class _AllFoundError(Exception):
    """Ends a forward pass whose remaining layers nobody asked for."""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer of a Hugging Face folder, as published."""
    folder = _checked_folder(folder)
    # Without these files Transformers makes up a tokenizer that knows no words.
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ValueError(
            f"lm.path: {str(folder)!r} holds no tokenizer; save one beside the model "
            "with save_pretrained"
        )
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer


def check_hooks(folder: str | Path, hooks: Sequence[str]) -> None:
    """Check that the LM in a folder has these hooks, without loading its weights.

    Raises:
        ValueError: it lacks one, with the nearest names.
    """
    folder = _checked_folder(folder)
    with quiet(), torch.device("meta"):
        bridge = TransformerBridge.boot_transformers(
            str(folder),
            device="meta",
            tokenizer=load_tokenizer(folder),
            load_weights=False,
        )
    for hook in hooks:
        _check_hook(hook, tuple(bridge.hook_dict))


def read_vocab_size(folder: str | Path) -> int:
    """Return the vocabulary of the LM in a folder, without loading its weights."""
    settings = AutoConfig.from_pretrained(
        str(_checked_folder(folder)), local_files_only=True
    )
    return int(settings.get_text_config().vocab_size)


def read_context(folder: str | Path) -> int | None:
    """Return how many tokens the LM in a folder can read; None if it does not say."""
    settings = AutoConfig.from_pretrained(
        str(_checked_folder(folder)), local_files_only=True
    )
    longest = getattr(settings.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else int(longest)


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that stand for no text, such as the end of a document."""
    return frozenset(int(token) for token in tokenizer.all_special_ids)


def pad_id(tokenizer: Tokenizer) -> int | None:
    """Return the id that does nothing but fill up sequences; None without one."""
    pad = tokenizer.pad_token_id
    return None if pad == tokenizer.eos_token_id else pad


def resolve_hub(repo_id: str, revision: str) -> str:
    """Return the commit hash of a model on the hub; see `hub.resolve`."""
    return hub.resolve(repo_id, revision, kind="model")


def download_hub(repo_id: str, commit: str) -> Path:
    """Return the local folder of a model's commit, downloaded where it is missing."""
    return hub.download_model(repo_id, commit, files=_FILES)


def folder_digest(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file that makes the model what it is, by name."""
    folder = _checked_folder(folder)
    paths = sorted({path for glob in _FILES for path in folder.glob(glob)})
    digests = zip(paths, file_digests.sha256(paths), strict=True)
    return {path.name: sha256 for path, sha256 in digests}


def tokenizer_digest(folder: str | Path) -> str:
    """Return the SHA-256 over the names and contents of a folder's tokenizer files."""
    folder = _checked_folder(folder)
    names = sorted({*_TOKENIZER_FILES, *_TOKENIZER_SETTINGS})
    paths = [folder / name for name in names if (folder / name).is_file()]
    digests = zip(paths, file_digests.sha256(paths), strict=True)
    lines = [f"{path.name} {sha256}\n" for path, sha256 in digests]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars of loading and saving inside the block."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    # Transformers leaves these two functions untyped.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _checked_folder(folder: str | Path) -> Path:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"lm.path: no folder {str(folder)!r} with a config.json; name a Hugging "
            "Face model folder"
        )
    return Path(folder)


def _check_hook(hook: str, names: Sequence[str]) -> None:
    if hook not in names:
        nearest = ", ".join(_nearest(hook, names))
        raise ValueError(
            f"harvest.hooks: the LM has no hook {hook!r}; nearest: {nearest}"
        )


def _nearest(hook: str, names: Sequence[str]) -> list[str]:
    """Return the three nearest names, of the same block where it exists."""
    block = _BLOCK.match(hook)
    same = [name for name in names if block and name.startswith(block.group())]
    return difflib.get_close_matches(hook, same or names, n=3, cutoff=0.0)
