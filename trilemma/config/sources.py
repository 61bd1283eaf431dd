"""What activations come from: a language model, a corpus, and how they are kept."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from trilemma.config import joint
from trilemma.config.section import Section

Dtype = Literal["float32", "float16", "bfloat16"]
StoredDtype = Literal["float32", "float16", "bfloat16", "int8"]


class _LM(Section):
    """What every kind of language model has."""

    processing: Literal["none", "folded"] = Field(
        "none",
        description="folded: LayerNorms are folded and weights centred at loading, as "
        "TransformerLens does by default; none: weights as published.",
    )


class EmbeddedLM(_LM):
    """A byte-pair tokenizer and a small GPT-NeoX, trained on the spot, offline."""

    kind: Literal["embedded"]
    vocab_size: PositiveInt = Field(4096, description="Entries of the tokenizer.")
    num_layers: PositiveInt = Field(4, description="Transformer blocks.")
    d_model: PositiveInt = Field(128, description="Width of the residual stream.")
    num_heads: PositiveInt = Field(4, description="Attention heads in each block.")
    ctx: PositiveInt = Field(128, description="Longest context, in tokens.")
    train_tokens: PositiveInt = Field(
        1_150_000, description="Tokens of training, rounded up to whole batches."
    )
    batch_seqs: PositiveInt = Field(8, description="Sequences in a training batch.")
    lr: PositiveFloat = Field(
        3e-3,
        description="Peak learning rate of biases and norms; the "
        "matrices, embedding and unembedding train at fixed multiples of it.",
    )
    seed: NonNegativeInt = Field(0, description="Seed of weights and batch order.")


class LocalLM(_LM):
    """A Hugging Face model folder on this machine."""

    kind: Literal["local"]
    path: str = Field(description="Folder with config.json, weights and tokenizer.")


class HubLM(_LM):
    """A model on the Hugging Face hub."""

    kind: Literal["hub"]
    id: str = Field(description="Repository on the hub, such as openai-community/gpt2.")
    revision: str = Field(
        "main", description="Branch, tag or commit; resolved to a commit hash."
    )


LM = Annotated[EmbeddedLM | LocalLM | HubLM, Field(discriminator="kind")]


class _Packing(Section):
    """How documents become rows of tokens; common to every kind of corpus."""

    ctx: PositiveInt = Field(128, description="Tokens in a row.")
    max_tokens: PositiveInt | None = Field(
        None, description="Stop after about this many tokens; absent means all."
    )
    eval_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of documents held out for evaluation."
    )
    seed: NonNegativeInt = Field(0, description="Seed of the one shuffle of rows.")


class EmbeddedCorpus(_Packing):
    """The running Python's own standard library, as text."""

    kind: Literal["embedded"]


class FileCorpus(_Packing):
    """Text, JSON-lines or Parquet files on this machine."""

    kind: Literal["text", "jsonl", "parquet"]
    paths: tuple[str, ...] = Field(
        min_length=1, description="Files or glob patterns; read in sorted order."
    )
    column: str = Field(
        "text", description="Column that holds the text (text files have only this)."
    )
    label_column: str | None = Field(
        None,
        description="Column that says what each document is, such as its language or "
        "its author; absent: nothing does.",
    )


class HubCorpus(_Packing):
    """A data set on the Hugging Face hub."""

    kind: Literal["hub"]
    id: str = Field(description="Data set on the hub, such as NeelNanda/pile-10k.")
    subset: str | None = Field(None, description="Its configuration, where it has any.")
    split: str = Field("train", description="Which of the data set's splits to read.")
    revision: str = Field(
        "main", description="Branch, tag or commit; resolved to a commit hash."
    )
    column: str = Field("text", description="Column that holds the text.")
    label_column: str | None = Field(
        None,
        description="Column that says what each document is, such as its language or "
        "its author; absent: nothing does.",
    )
    streaming: bool = Field(True, description="Read as a stream, without a full copy.")
    shuffle_buffer: PositiveInt | None = Field(
        None,
        description="Documents held to draw the next one from, and files in random "
        "order; absent: in the order of the data set.",
    )


class CachedCorpus(Section):
    """Tokens and activations that SAELens's CacheActivationsRunner left in a folder."""

    kind: Literal["saelens_cache"]
    path: str = Field(description="Folder that datasets.load_from_disk would read.")
    max_tokens: PositiveInt | None = Field(
        None, description="Stop after about this many tokens; absent means all."
    )
    eval_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of its rows held out for evaluation."
    )
    seed: NonNegativeInt = Field(0, description="Seed of the one shuffle of rows.")


Corpus = Annotated[
    EmbeddedCorpus | FileCorpus | HubCorpus | CachedCorpus,
    Field(discriminator="kind"),
]


class Harvest(Section):
    """Where and how activations are read from the LM."""

    hooks: tuple[str, ...] = Field(
        min_length=1,
        description="TransformerLens hook names, such as blocks.2.hook_resid_post.",
    )
    lm_dtype: Dtype = Field("float32", description="Dtype of the LM's weights.")
    attention: Literal["sdpa", "eager"] = Field(
        "sdpa",
        description="eager: to the bit what TransformerLens computes; sdpa: the same "
        "but for rounding, and faster.",
    )
    batch_seqs: PositiveInt | None = Field(
        None,
        description="Rows in one forward pass; absent: as many, a power of two, as "
        "need at most batch_memory_mib and hold 65,536 tokens (on a CPU 4,096).",
    )
    batch_memory_mib: PositiveInt = Field(
        512, description="Memory for the values inside one forward pass."
    )

    @field_validator("hooks")
    @classmethod
    def _hooks_can_be_joined(cls, hooks: tuple[str, ...]) -> tuple[str, ...]:
        for hook in hooks:
            if joint.SEPARATOR in hook:
                raise ValueError(
                    f"found {hook!r}; {joint.SEPARATOR!r} joins the hooks of a "
                    "crosscoder, so no hook can have it in its name"
                )
        return hooks


class Store(Section):
    """How activations are laid out on disk."""

    dtype: StoredDtype = Field(
        "float32",
        description="Dtype of stored activations; int8 has a scale for each row.",
    )
    chunk_mib: PositiveFloat = Field(
        16.0, description="Size of a chunk, rounded down to whole sequences."
    )
    codec: Literal["none", "shuffle-zstd"] = Field(
        "none", description="Compression of activation chunks."
    )
    shard_chunks: PositiveInt | None = Field(
        None,
        description="Chunks that share one file or object; absent: a file for each.",
    )
    high_norm_ratio: PositiveFloat = Field(
        10.0, description="Rows above this many median norms are masked."
    )
