"""The embedded text and the LM that is trained on it."""

import hashlib
import itertools
from pathlib import Path

import pytest
import torch

from trilemma import embedded
from trilemma.config.sources import EmbeddedLM
from trilemma.lm import load_tokenizer

TINY = EmbeddedLM(
    kind="embedded",
    vocab_size=300,
    num_layers=1,
    d_model=16,
    num_heads=2,
    ctx=16,
    train_tokens=8 * 16 * 3,
)


def test_documents_are_sources_and_help_topics_of_python():
    names = [document.name for document in embedded.documents()]
    assert {"json/decoder.py", "topics/with", "heapq.py"} <= set(names)
    assert len(names) == len(set(names))


def test_documents_leave_out_tests_and_tables_of_characters():
    folders = {
        part
        for document in embedded.documents()
        for part in Path(document.name).parent.parts
    }
    assert not folders & {"test", "tests", "encodings", "site-packages"}


def test_the_first_documents_are_a_mixture():
    names = [document.name for document in itertools.islice(embedded.documents(), 100)]
    assert len({name[0] for name in names}) > 10


def test_text_digest_is_repeatable():
    assert embedded.text_digest() == embedded.text_digest()


def test_training_learns_more_than_token_frequencies(trained):
    assert trained.result.val_loss < trained.result.unigram_entropy - 0.1


def test_training_reports_the_last_step(trained):
    last = trained.progress[-1]
    assert last.step == last.num_steps == 60
    assert last.tokens == trained.result.train_tokens == 8 * 32 * 60


def test_bits_per_byte_agree_with_nats_per_token(trained):
    bytes_per_token = trained.result.val_loss / 0.6931 / trained.result.bits_per_byte
    assert 1.5 < bytes_per_token < 4


def test_the_tokenizer_gives_any_text_back(trained):
    tokenizer = load_tokenizer(trained.folder)
    text = "def naïve(x):\n\treturn x  # 日本 <|endo"
    assert len(tokenizer) == 400
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_training_again_gives_the_same_bytes(tmp_path):
    digests = []
    for name in ("first", "second"):
        torch.rand(3)
        embedded.train(TINY, tmp_path / name, report=lambda at: None)
        digests.append(_digests(tmp_path / name))
    assert digests[0] == digests[1]


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    embedded.train(TINY, tmp_path, report=lambda at: None)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_the_unembedding_agree_with_autograd(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 16, generator=generator).bfloat16().to(dtype)
    weight = torch.randn(50, 16, generator=generator).bfloat16().float()
    targets = torch.randint(50, (24,), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    expected = torch.nn.functional.cross_entropy(hidden.float() @ weight.T, targets)
    expected.backward()
    found = embedded.head_gradients(hidden, weight, targets, torch.empty(24, 50))
    assert hidden.grad is not None and weight.grad is not None
    torch.testing.assert_close(found.loss, expected.detach(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        found.hidden.float(), hidden.grad.float(), rtol=0.05, atol=2e-3
    )
    torch.testing.assert_close(found.weight, weight.grad, rtol=0.05, atol=2e-3)


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }
