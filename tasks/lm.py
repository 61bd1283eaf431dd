"""The `lm` stage: pin a language model's files, or train the embedded one."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import artifacts, durable
from storage.places import LocalPlace
from storage.store import torch_dtype
from tasks import environment, progress, stage
from tasks.plan import Plan
from trilemma import embedded, toys
from trilemma import lm as library
from trilemma.config.sources import Dtype, EmbeddedLM, HubLM, LocalLM

CARD = "card.json"
_MODEL = "model"
_TRAINING_BYTES = 64 << 20


@task(name="lm", cache_policy=NO_CACHE, retries=0, persist_result=False)
def lm(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave a pinned LM: hashes of its files, or the files if it is trained here."""
    return stage.perform(plan, plan.of("lm"), _body, force=force)


def folder(plan: Plan) -> Path:
    """Return the Hugging Face folder of the run's LM, downloading a hub's if need be.

    Raises:
        ValueError: the folder's files are not those that the artifact pinned.
    """
    config = plan.run.lm
    if isinstance(config, EmbeddedLM):
        step = plan.step("lm")
        manifest = step.manifest()
        assert manifest is not None
        artifacts.check_sizes(LocalPlace(step.folder), manifest)
        return step.folder / _MODEL
    if isinstance(config, HubLM):
        return library.download_hub(config.id, plan.pinned["lm"])
    assert isinstance(config, LocalLM)
    if library.folder_digest(config.path) != plan.step("lm").section["files"]:
        raise ValueError(
            f"lm.path: the files in {config.path!r} have changed since this run was "
            "planned; run it again"
        )
    return Path(config.path)


def load(plan: Plan, *, dtype: Dtype) -> library.LM:
    """Return the run's LM, ready to read activations from."""
    config, harvest = plan.run.lm, plan.run.harvest
    assert config is not None
    assert harvest is not None
    return library.LM.load(
        folder(plan),
        dtype=torch_dtype(dtype),
        device=environment.device(plan.run.compute),
        processing=config.processing,
        attention=harvest.attention,
    )


def token_text(plan: Plan) -> list[str]:
    """Return the text of each token id; for a toy, the strongest feature's name."""
    if plan.run.toy is not None:
        return toys.token_text(plan.run.toy)
    tokenizer = library.load_tokenizer(folder(plan))
    return list(tokenizer.batch_decode([[i] for i in range(len(tokenizer))]))


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    config = work.plan.run.lm
    target = work.folder(step)
    if isinstance(config, EmbeddedLM):
        work.check_room(_TRAINING_BYTES)
        card = _train(config, target / _MODEL)
    else:
        source = folder(work.plan)
        card = {"kind": step.section["kind"], "files": library.folder_digest(source)}
    durable.write_json(target / CARD, card)
    work.commit(step)


def _train(config: EmbeddedLM, target: Path) -> dict[str, object]:
    log = get_run_logger()
    with progress.shown("lm", config.train_tokens, "tokens") as show:
        result = embedded.train(
            config,
            target,
            report=lambda at: show(at.tokens, f"loss {at.loss:.2f} nats/token"),
        )
    log.info(
        "lm: validation loss %.3f nats/token (%.3f bits/byte; unigram entropy %.3f "
        "nats/token) after %s tokens in %.0f s",
        result.val_loss,
        result.bits_per_byte,
        result.unigram_entropy,
        f"{result.train_tokens:,}",
        result.seconds,
    )
    card = {k: v for k, v in result._asdict().items() if k != "seconds"}
    return {"kind": "embedded"} | card
