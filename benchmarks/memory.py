"""Peak memory of a harvest and of ten times one: `python -m benchmarks.memory`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from benchmarks import engine, machine
from storage.store_writer import Layout
from tasks.harvesting import Documents, Source, Tokens
from trilemma import harvest as library
from trilemma.lm import LM, quiet

CTX, BATCH_SEQS = 128, 32
D_MODEL, NUM_LAYERS, VOCAB = 128, 2, 4096
NUM_SEQS, TIMES = 1024, 10
# Of the short harvest: how far the queue fills up is chance, and rarer in it.
ROUNDS = 3
CHUNK_BYTES = 4 << 20
END = "<|endoftext|>"
_PRIME = 2_654_435_761  # 2^32 over the golden ratio, as in multiplicative hashing
_MIB = 1 << 20


class Case(NamedTuple):
    """What is harvested."""

    hooks: tuple[str, ...]
    dtype: str


CASES = {
    "2 hooks float32": Case(
        ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"), "float32"
    ),
    "1 hook bfloat16": Case(("blocks.1.hook_resid_post",), "bfloat16"),
}


def main() -> None:
    """Print the peaks of both lengths, and the worst growth on the last line."""
    growth = []
    with tempfile.TemporaryDirectory(prefix="benchmark-memory-") as folder:
        model = Path(folder) / "model"
        _make_model(model)
        print(machine.line())
        print(f"{'':16} {'sequences':>9}  {'chunks':>6}  peak MiB")
        for name, case in CASES.items():
            short = [_peak(name, NUM_SEQS, model) for _ in range(ROUNDS)]
            long = _peak(name, TIMES * NUM_SEQS, model)
            growth.append(long / max(short) - 1)
            for num_seqs, peaks in ((NUM_SEQS, short), (TIMES * NUM_SEQS, [long])):
                chunks = -(-num_seqs // _layout(case).chunk_seqs())
                shown = ", ".join(f"{peak / _MIB:,.1f}" for peak in peaks)
                print(f"{name:16} {num_seqs:9,}  {chunks:6}  {shown}", flush=True)
    print(json.dumps({"harvest_memory_growth": round(max(growth), 4)}))


def _peak(name: str, num_seqs: int, model: Path) -> int:
    """Return the most bytes that a harvest in a process of its own had resident."""
    with tempfile.TemporaryDirectory(dir=model.parent) as target:
        words = [sys.executable, "-m", "benchmarks.memory"]
        words += [name, str(num_seqs), str(model), target]
        ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return int(ended.stdout)


def _measure(name: str, num_seqs: int, model: Path, target: Path) -> None:
    """Harvest here, and print the most bytes that were resident."""
    case = CASES[name]
    lm = LM.load(
        model,
        dtype=getattr(torch, case.dtype),
        device="cpu",
        processing="none",
        attention="eager",
    )
    source = _source(lm, case, num_seqs)
    engine.harvest(target, source, _layout(case), batch_seqs=BATCH_SEQS)
    # What `getrusage` says would include the parent's peak.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = [x for x in status.splitlines() if x.startswith("VmHWM:")]
    print(int(peak.split()[1]) << 10)


def _source(lm: LM, case: Case, num_seqs: int) -> Source:
    """Return rows of arbitrary tokens, which take no memory before they are asked."""

    def tokens(span: slice) -> Tokens:
        numbers = np.arange(span.start * CTX, span.stop * CTX, dtype=np.uint64)
        drawn = (numbers * np.uint64(_PRIME) >> np.uint64(16)) % np.uint64(VOCAB - 1)
        return drawn.astype(np.int32).reshape(-1, CTX)

    def document(span: slice) -> Documents:
        numbers = np.arange(span.start, span.stop, dtype=np.int64)
        return np.repeat(numbers[:, None], CTX, axis=1)

    def batches(span: slice) -> Iterator[Mapping[str, Tensor]]:
        return library.batches(lm, tokens(span), case.hooks, batch_seqs=BATCH_SEQS)

    return Source(
        num_seqs=num_seqs,
        tokens=tokens,
        document=document,
        mask=lambda part: library.mask_rows(part, lm.special_ids(), lm.pad_id),
        batches=batches,
    )


def _layout(case: Case) -> Layout:
    return Layout(
        ctx=CTX,
        widths=dict.fromkeys(case.hooks, D_MODEL),
        dtype=case.dtype,
        chunk_bytes=CHUNK_BYTES,
        codec="none",
        shard_chunks=None,
        provenance={},
    )


def _make_model(folder: Path) -> None:
    """Save a small GPT-NeoX, its weights drawn at random."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * D_MODEL,
        max_position_embeddings=CTX,
    )
    words = {f"w{i}": i for i in range(VOCAB - 1)} | {END: VOCAB - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with quiet():
        GPTNeoXForCausalLM(config).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=END
        ).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:]))
    else:
        main()
