"""The `explanation` stage: sampled latents put in words, and the words tested."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import durable
from tasks import environment, evaluation, interruption, lm, progress, stage, training
from tasks.plan import Plan, Step
from trilemma import explanation as library
from trilemma.sequences import Sequences

EXPLANATIONS = "explanations.jsonl"
_BYTES_PER_LATENT = 1 << 18


@task(
    name="explanation",
    task_run_name="explanation {name}",
    cache_policy=NO_CACHE,
    retries=0,
    persist_result=False,
)
def explanation(plan: Plan, name: str, *, force: bool) -> State[stage.Outcome]:
    """Leave evidence, explanations, judgements and scores of one SAE's latents."""
    steps = [plan.step("explanation", name)]
    return stage.perform(plan, steps, _body, force=force)


def read(step: Step) -> list[dict[str, Any]]:
    """Return what was found about each sampled latent."""
    return _lines(step.folder / EXPLANATIONS)


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    plan = work.plan
    config = plan.run.explanation
    work.check_room(config.num_latents * _BYTES_PER_LATENT)
    columns = evaluation.read_latents(step.parents["evaluation"])
    density = np.array(columns["density"])
    latents = library.sample_latents(
        density, num=config.num_latents, seed=config.seed
    ).tolist()
    path = work.folder(step) / EXPLANATIONS
    path.touch()
    _drop_torn_line(path)
    done = [record["latent"] for record in _lines(path)]
    member = plan.member(step.name)
    held_out = _gathered(evaluation.sequences(plan, member.hook)())
    found = library.explain_latents(
        config,
        tokens=held_out.tokens.numpy(),
        document=held_out.document.numpy(),
        mask=held_out.mask.numpy(),
        acts=_acts(plan, step, latents),
        latents=latents,
        density=density,
        token_text=lm.token_text(plan),
        skip=done,
    )
    with (
        interruption.watched() as asked,
        progress.shown(step.title, len(latents), "latents", len(done)) as show,
    ):
        for count, latent in enumerate(found, start=len(done) + 1):
            durable.append_line(path, durable.canonical_json(latent.as_dict()))
            show(count, "")
            if asked():
                raise interruption.Interrupted(f"asked to stop at latent {count}")
    scores = [
        record["scores"]["predicate_f1"]["value"]
        for record in _lines(path)
        if record["scores"]
    ]
    get_run_logger().info(
        "%s: %d of %d sampled latents scored, median predicate_f1 %s",
        step.title,
        len(scores),
        len(latents),
        f"{np.median(scores):.2f}" if scores else "unknown",
    )
    work.commit(step)


def _gathered(batches: Iterable[Sequences]) -> Sequences:
    """Return all sequences as one, without their activations, to save memory."""
    # An empty slice would keep the whole batch alive.
    kept = [b._replace(x=b.x.new_empty((*b.tokens.shape, 0))) for b in batches]
    return Sequences(*(torch.cat(parts) for parts in zip(*kept, strict=True)))


def _acts(plan: Plan, step: Step, latents: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the sampled latents' activations, `[num_seqs, ctx, num_latents]`."""
    device = environment.device(plan.run.compute)
    sae = training.load_sae_of_rows(plan, step.parents["training"], device)
    chosen = torch.tensor(latents, dtype=torch.int64, device=device)
    parts = []
    with torch.inference_mode():
        for batch in evaluation.sequences(plan, plan.member(step.name).hook)():
            parts.append(sae.encode(batch.x.to(device))[..., chosen].cpu())
    return torch.cat(parts).numpy()


def _lines(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: text of a corpus may hold other ends of lines than "\n".
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def _drop_torn_line(path: Path) -> None:
    """Forget a line that a kill cut short; its latent is judged again."""
    whole, newline, torn = path.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        durable.write_text(path, whole + newline)
