"""The `training` stage: all missing SAEs of a hook in one pass over its activations."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import checkpoints, durable, provenance
from storage.order import TrainingOrder
from storage.store import Store
from tasks import environment, hooks, interruption, progress, stage, terms, tracking
from tasks.harvest import open_store
from tasks.hooks import Hook
from tasks.plan import Plan, Step
from trilemma import allocation, pretrained
from trilemma import training as library
from trilemma.config.saes import Pretrained
from trilemma.config.sources import HubCorpus, HubLM
from trilemma.non_finite import NonFiniteLossError
from trilemma.sae import SAE

CURVE = "curve.json"
MIXING = "mixing.json"
SAE_FOLDER = "sae"
_CHECKPOINTS = "checkpoints"
_PARAMETER_BYTES = 4
_FOLDERS = 4  # two checkpoints, one aside, and what is exported


class _Trainee(NamedTuple):
    step: Step
    member: library.Member
    tracker: tracking.Tracker
    needed: terms.Needed


@task(name="training", cache_policy=NO_CACHE, retries=0, persist_result=False)
def training(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave one trained SAE for each member of the family, controls included."""
    return stage.perform(plan, plan.of("training"), _body, force=force)


def load_sae(step: Step, device: str) -> SAE:
    """Return the SAE of a training step."""
    return SAE.load(step.folder / SAE_FOLDER, device=device)


def told(rows: list[library.StepRow]) -> str:
    """Return how the SAEs do at a step: from the least to the largest, if several."""
    fvu = _range([row["fvu"] for row in rows], "{:.3f}")
    l0 = _range([row["l0"] for row in rows], "{:.1f}")
    dead = _range([100 * row["dead_fraction"] for row in rows], "{:.1f}")
    return f"fvu {fvu}, l0 {l0}, dead {dead} %"


def _body(work: stage.Work) -> None:
    store = open_store(work.plan, "train")
    hook_of: dict[str, str] = {}
    parameters = 0
    for step in work.pending:
        member = work.plan.member(step.name)
        if isinstance(member.config, Pretrained):
            _convert(work, store, step, member.config)
        else:
            hook_of[step.key] = member.hook
            parameters += 2 * store.d_in(member.hook) * member.config.d_sae
    # Weights, two moments, and perhaps a running mean.
    tensors = 3 + (work.plan.run.training.ema_decay is not None)
    work.check_room(parameters * _PARAMETER_BYTES * tensors * _FOLDERS)
    with interruption.watched() as asked:
        for hook in dict.fromkeys(hook_of.values()):
            steps = [step for step in work.pending if hook_of.get(step.key) == hook]
            _train_hook(work, store, hook, steps, asked)


def _convert(work: stage.Work, store: Store, step: Step, config: Pretrained) -> None:
    """Leave a published SAE in SAELens's format, with a curve of no steps."""
    assert config.hook is not None
    commit = work.plan.pinned.get(f"saes/{step.name}")
    try:
        if config.path is not None:
            pinned = step.section["sae"]["files"]
            if pretrained.source(config).section["files"] != pinned:
                raise ValueError(
                    f"saes.path: the files in {config.path!r} have changed since this "
                    "run was planned; run it again"
                )
        sae = pretrained.load(config, commit=commit, d_in=store.d_in(config.hook))
    except ValueError as error:
        work.fail(step, error)
        return
    known = sae.metadata.setdefault("hook_name", config.hook)
    if known != config.hook:
        get_run_logger().warning(
            "%s: says that it reads %s, but stands on %s",
            step.title,
            known,
            config.hook,
        )
    sae.save(work.folder(step) / SAE_FOLDER)
    durable.write_json(work.folder(step) / CURVE, [])
    work.commit(step)


def _train_hook(
    work: stage.Work,
    store: Store,
    hook: str,
    steps: list[Step],
    asked: Callable[[], bool],
) -> None:
    plan = work.plan
    found = hooks.prepare(plan, store, hook)
    model = terms.load_lm(plan, steps)
    began = time.monotonic()
    with allocation.kept(), contextlib.ExitStack() as stack:
        trainees = []
        for step in steps:
            try:
                needed = terms.needed(plan, step, store, start=found.start, model=model)
                member = _member(work, step, found, needed)
            except ValueError as error:
                work.fail(step, error)
                continue
            tracker = stack.enter_context(
                tracking.opened(plan, step, len(member.curve))
            )
            trainees.append(_Trainee(step, member, tracker, needed))
        if not trainees:
            return
        first = min(trainee.member.step_index for trainee in trainees)
        span = range(first, found.num_steps)
        waited = _steps(work, found.order, trainees, span, asked)
    for trainee in trainees:
        if trainee.step.title not in work.failed:
            target = work.folder(trainee.step)
            sae = trainee.member.export()
            sae.metadata |= _origin(plan, store, hook)
            sae.save(target / SAE_FOLDER)
            durable.write_json(target / CURVE, trainee.member.curve)
            durable.write_json(target / MIXING, found.mixed._asdict())
            work.commit(trainee.step)
    count = sum(trainee.step.key in work.committed for trainee in trainees)
    if count:
        seconds = time.monotonic() - began
        get_run_logger().info(
            "training: %d SAEs on %s, steps %d to %d, %s tokens in %.1f s, waited "
            "%.1f %% for data",
            count,
            hook,
            first,
            found.num_steps,
            f"{len(span) * plan.run.training.batch_tokens:,}",
            seconds,
            100 * waited / seconds,
        )


def _member(
    work: stage.Work, step: Step, found: Hook, needed: terms.Needed
) -> library.Member:
    """Return an SAE in training, at its last checkpoint if there is one.

    Raises:
        ValueError: a setting can have no effect, or the checkpoint is of another SAE.
    """
    config = work.plan.member(step.name).config
    assert not isinstance(config, Pretrained)
    member = library.Member(
        config,
        work.plan.run.training,
        start=found.start,
        num_steps=found.num_steps,
        key=step.name,
        device=environment.device(work.plan.run.compute),
        held_out_rows=found.held_out,
        gamma=needed.gamma,
        splice=needed.splice,
    )
    log = get_run_logger()
    log.info(
        "%s: peak lr %.3g%s, %s steps, %s tokens",
        step.title,
        member.peak_lr,
        "" if config.lr else f", from a width of {config.d_sae:,} latents",
        f"{found.num_steps:,}",
        f"{found.num_tokens:,}",
    )
    saved = checkpoints.latest(work.folder(step) / _CHECKPOINTS, key=step.key)
    if saved is not None:
        member.restore(library.Checkpoint(saved.tensors, saved.values))
        log.info(
            "%s: resumes at step %d of %d", step.title, saved.step, found.num_steps
        )
    return member


def _origin(plan: Plan, store: Store, hook: str) -> dict[str, Any]:
    """Return what the SAE's metadata says of the activations, in SAELens's words.

    A source on this machine is named by its kind: its path is in no key.
    """
    lm, corpus = plan.run.lm, plan.run.corpus
    dataset = corpus.id if isinstance(corpus, HubCorpus) else corpus and corpus.kind
    return {
        "hook_name": hook,
        "context_size": store.ctx,
        "model_name": lm.id if isinstance(lm, HubLM) else lm and lm.kind,
        "dataset_path": dataset,
        "trilemma_origin": provenance.origin(
            store.provenance, hook, ctx=store.ctx, dtype=store.dtypes[hook]
        ),
    }


def _steps(
    work: stage.Work,
    order: TrainingOrder,
    trainees: list[_Trainee],
    span: range,
    asked: Callable[[], bool],
) -> float:
    """Train every SAE on each batch; return the seconds for which data was waited.

    An SAE that is ahead waits for the others.
    """
    shared = work.plan.run.training
    compute = work.plan.run.compute
    device = torch.device(environment.device(compute))
    active = list(trainees)
    reader = order.batches(
        span.start,
        span.stop,
        prefetch=compute.prefetch,
        pin=device.type == "cuda",
    )
    batch = shared.batch_tokens
    total, before = span.stop * batch, span.start * batch
    waited = 0.0
    with (
        contextlib.closing(reader) as batches,
        progress.shown("training", total, "tokens", before) as show,
    ):
        for index in span:
            asked_at = time.monotonic()
            stored = next(batches)
            waited += time.monotonic() - asked_at
            x = stored.to(device, non_blocking=True).float()
            rows = []
            for trainee in [t for t in active if t.member.step_index == index]:
                try:
                    sequences = trainee.needed.sequences(index, device)
                    row = trainee.member.step(x, sequences)
                except NonFiniteLossError as error:
                    _checkpoint(work, [trainee])
                    error.add_note(f"(the checkpoint of step {index} is kept)")
                    work.fail(trainee.step, error)
                    active.remove(trainee)
                    continue
                if row is not None:
                    trainee.tracker.log(row)
                    rows.append(row)
            if rows:
                show((index + 1) * batch, told(rows))
            if not active:
                break
            if asked():
                _checkpoint(work, active)
                raise interruption.Interrupted(f"asked to stop at step {index + 1}")
            if (index + 1) % shared.checkpoint_every_steps == 0:
                _checkpoint(
                    work, [t for t in active if t.member.step_index == index + 1]
                )
    return waited


def _checkpoint(work: stage.Work, trainees: list[_Trainee]) -> None:
    for trainee in trainees:
        state = trainee.member.state()
        checkpoints.save(
            work.folder(trainee.step) / _CHECKPOINTS,
            checkpoints.Checkpoint(
                trainee.member.step_index, state.tensors, state.values
            ),
            key=trainee.step.key,
        )


def _range(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
