"""The embedded default: Python's own library as text, and a small LM trained on it."""

import functools
import hashlib
import math
import sys
import sysconfig
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pydoc_data import topics
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXTokenizer

from trilemma.config.sources import EmbeddedLM
from trilemma.lm import quiet

# `encodings` is tables of characters; the topics are read entry by entry.
_SKIPPED_FOLDERS = {"encodings", "idle_test", "pydoc_data", "test", "tests"}
_END = "<|endoftext|>"
# More than tokens have, so that most of the text is trained on and none repeats.
_CHARACTERS_PER_TOKEN = 5
_FEWEST_CHARACTERS = 1_000_000
_VALIDATION_PERCENT = 5
_LOG_EVERY_STEPS = 50
_VALIDATION_BATCH_SEQS = 32
_WARMUP_STEPS = 50
_BETAS = (0.9, 0.95)
# Times the peak learning rate, which is that of biases and norms.
_MATRICES_LR, _EMBEDDING_LR, _UNEMBEDDING_LR = 7, 10, 2
_WEIGHT_DECAY = 0.01
_CLIP_NORM = 1.0


class Document(NamedTuple):
    """One text of the embedded corpus."""

    name: str
    """Path below the standard library, or `topics/` and the name of a help topic."""
    text: str


class TrainingProgress(NamedTuple):
    """Where the training of the embedded LM stands."""

    step: int
    num_steps: int
    tokens: int
    """Tokens trained on so far."""
    loss: float
    """Of the last batch, in nats per token."""


class EmbeddedResult(NamedTuple):
    """What training the embedded LM came to."""

    val_loss: float
    """Cross-entropy on held-out documents, in nats per token."""
    bits_per_byte: float
    """The same, in bits per byte of text, so that tokenizers can be compared."""
    unigram_entropy: float
    """Entropy of the training tokens' frequencies in nats: a loss without context."""
    train_tokens: int
    val_tokens: int
    seconds: float
    """Wall-clock time of the training loop."""


def documents() -> Iterator[Document]:
    """Yield the running Python's standard library and its help topics.

    They come in the order of a hash of their names, so that the first so many are a
    fair sample of all.
    """
    root = Path(sysconfig.get_path("stdlib"))
    sources = {
        str(path): root / path
        for path in (found.relative_to(root) for found in root.rglob("*.py"))
        # Names outside the library's own list are the distribution's, not Python's.
        if path.parts[0].removesuffix(".py") in sys.stdlib_module_names
        and not _SKIPPED_FOLDERS.intersection(path.parts)
    }
    for name in sorted([*sources, *_TOPICS], key=_hash):
        if name in sources:
            with tokenize.open(sources[name]) as file:
                text = file.read()
        else:
            text = _TOPICS[name]
        if text.strip():
            yield Document(name, text)


@functools.cache
def text_digest() -> str:
    """Return the SHA-256 of all documents, which differ between Python versions."""
    digest = hashlib.sha256()
    for document in documents():
        digest.update(_hash(document.name).encode())
        digest.update(_hash(document.text).encode())
    return digest.hexdigest()


def train(
    config: EmbeddedLM, folder: Path, *, report: Callable[[TrainingProgress], None]
) -> EmbeddedResult:
    """Train tokenizer and LM, save both to a folder as Hugging Face does.

    Equal settings, text, libraries, processor type and thread count give equal bytes.
    """
    texts: dict[bool, list[str]] = {False: [], True: []}
    num_characters = 0
    # From the end, so that a corpus of the first so many is new to the LM.
    for document in reversed(list(documents())):
        texts[_is_validation(document.text)].append(document.text)
        num_characters += len(document.text)
        if num_characters >= max(
            _FEWEST_CHARACTERS, config.train_tokens * _CHARACTERS_PER_TOKEN
        ):
            break
    tokenizer = _train_tokenizer(texts[False], config.vocab_size)
    rows = _pack(tokenizer, texts[False], config.ctx)
    val_rows = _pack(tokenizer, texts[True], config.ctx)
    model = _build(config, tokenizer)
    start = time.monotonic()
    num_steps = _fit(model, rows, config, report)
    seconds = time.monotonic() - start
    val_loss = _validate(model, val_rows)
    with quiet():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    val_bytes = sum(
        len(text.encode())
        for text in tokenizer.batch_decode(val_rows, skip_special_tokens=True)
    )
    return EmbeddedResult(
        val_loss=val_loss,
        bits_per_byte=val_loss / math.log(2) * val_rows.numel() / val_bytes,
        unigram_entropy=_unigram_entropy(rows),
        train_tokens=num_steps * config.batch_seqs * config.ctx,
        val_tokens=val_rows[:, 1:].numel(),
        seconds=seconds,
    )


_TOPICS = {f"topics/{name}": text for name, text in topics.topics.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_validation(text: str) -> bool:
    return int(_hash(f"embedded/validation\n{text}"), 16) % 100 < _VALIDATION_PERCENT


def _train_tokenizer(texts: Iterable[str], vocab_size: int) -> GPTNeoXTokenizer:
    untrained = GPTNeoXTokenizer(pad_token=_END)
    # Transformers leaves this function untyped.
    tokenizer = untrained.train_new_from_iterator(  # type: ignore[no-untyped-call]
        texts, vocab_size=vocab_size, show_progress=False
    )
    assert isinstance(tokenizer, GPTNeoXTokenizer)
    return tokenizer


def _pack(
    tokenizer: GPTNeoXTokenizer, texts: list[str], ctx: int
) -> Int64[Tensor, "seqs ctx_and_target"]:
    """Return rows of ctx tokens and one more, every document closed by its end."""
    tokens: list[int] = []
    for ids in tokenizer(texts, verbose=False)["input_ids"]:
        tokens += ids
        tokens.append(tokenizer.eos_token_id)
    num_seqs = len(tokens) // (ctx + 1)
    return torch.tensor(tokens[: num_seqs * (ctx + 1)]).view(num_seqs, ctx + 1)


def _build(config: EmbeddedLM, tokenizer: GPTNeoXTokenizer) -> GPTNeoXForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.d_model,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=4 * config.d_model,
                max_position_embeddings=config.ctx,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                tie_word_embeddings=False,
                use_cache=False,
            )
        )
    # At this size a third faster on a CPU than the fused kernel.
    model.set_attn_implementation("eager")
    return model


def _fit(
    model: GPTNeoXForCausalLM,
    rows: Int64[Tensor, "seqs ctx_and_target"],
    config: EmbeddedLM,
    report: Callable[[TrainingProgress], None],
) -> int:
    """Train in place, under bfloat16 autocast, and return the number of steps."""
    batch_tokens = config.batch_seqs * config.ctx
    num_steps = math.ceil(config.train_tokens / batch_tokens)
    order = _row_order(len(rows), num_steps * config.batch_seqs, config.seed)
    optimizers = _optimizers(model, config.lr)
    head = model.lm_head
    workspace = torch.empty(batch_tokens, config.vocab_size)
    model.train()
    for step, batch in enumerate(torch.split(rows[order], config.batch_seqs)):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.gpt_neox(batch[:, :-1]).last_hidden_state.flatten(0, 1)
        loss, d_hidden, d_weight = head_gradients(
            hidden, head.weight, batch[:, 1:].flatten(), workspace
        )
        hidden.backward(d_hidden)
        head.weight.grad = d_weight
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        # Up over the first steps, then down to 0 in a straight line.
        share = min(1, (step + 1) / _WARMUP_STEPS) * (1 - step / num_steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * share
            optimizer.step()
        model.zero_grad()
        done = step + 1
        if done % _LOG_EVERY_STEPS == 0 or done == num_steps:
            tokens = done * batch_tokens
            report(TrainingProgress(done, num_steps, tokens, loss.item()))
    return num_steps


def _optimizers(model: GPTNeoXForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for all else.

    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks".
    On this text it takes 0.3 nats off what AdamW alone reaches in as many tokens.
    """
    embedding, unembedding = model.gpt_neox.embed_in.weight, model.lm_head.weight
    blocks = [p for p in model.parameters() if p is not embedding]
    blocks = [p for p in blocks if p is not unembedding]
    matrices = [p for p in blocks if p.ndim == len(("out", "in"))]
    vectors = [p for p in blocks if p.ndim == len(("out",))]
    optimizers = [
        torch.optim.Muon(matrices, lr=_MATRICES_LR * lr, weight_decay=_WEIGHT_DECAY),
        torch.optim.AdamW(
            [
                {"params": vectors, "lr": lr},
                {"params": [embedding], "lr": _EMBEDDING_LR * lr},
                {"params": [unembedding], "lr": _UNEMBEDDING_LR * lr},
            ],
            betas=_BETAS,
            weight_decay=_WEIGHT_DECAY,
            fused=True,
        ),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


class HeadGradients(NamedTuple):
    """The loss of a batch and its gradients at the unembedding."""

    loss: Float[Tensor, ""]
    """Mean cross-entropy in nats."""
    hidden: Float[Tensor, "tokens d_model"]
    weight: Float[Tensor, "vocab d_model"]


@torch.no_grad()
def head_gradients(
    hidden: Float[Tensor, "tokens d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int64[Tensor, " tokens"],
    workspace: Float[Tensor, "tokens vocab"],
) -> HeadGradients:
    """Return the cross-entropy of the unembedding and its gradients.

    By hand and in place, since fresh tensors as large as the logits took a quarter
    of each step. Matrix products in bfloat16, the softmax in float32.
    """
    num_tokens = len(targets)
    hidden, half = hidden.bfloat16(), weight.bfloat16()
    logits = hidden @ half.T
    work = workspace.copy_(logits)
    work -= work.amax(1, keepdim=True)
    target = work.gather(1, targets[:, None])
    total = work.exp_().sum(1, keepdim=True)
    loss = (total.log() - target).mean()
    work /= total * num_tokens
    work.scatter_add_(1, targets[:, None], torch.full_like(target, -1 / num_tokens))
    d_logits = logits.copy_(work)
    return HeadGradients(loss, d_logits @ half, (d_logits.T @ hidden).float())


def _row_order(num_rows: int, num_taken: int, seed: int) -> Int64[Tensor, " taken"]:
    """Return rows to train on, each once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    passes = math.ceil(num_taken / num_rows)
    order = [torch.randperm(num_rows, generator=generator) for _ in range(passes)]
    return torch.cat(order)[:num_taken]


@torch.inference_mode()
def _validate(
    model: GPTNeoXForCausalLM, rows: Int64[Tensor, "seqs ctx_and_target"]
) -> float:
    """Return the cross-entropy in nats per token, float32 with a float64 sum."""
    model.train(mode=False)
    total = 0.0
    for batch in torch.split(rows, _VALIDATION_BATCH_SEQS):
        logits = model(batch[:, :-1]).logits.flatten(0, 1)
        losses = nn.functional.cross_entropy(
            logits, batch[:, 1:].flatten(), reduction="none"
        )
        total += losses.double().sum().item()
    return total / rows[:, 1:].numel()


def _unigram_entropy(rows: Int64[Tensor, "seqs ctx_and_target"]) -> float:
    share = rows.flatten().bincount().double() / rows.numel()
    return float(torch.special.entr(share).sum())
