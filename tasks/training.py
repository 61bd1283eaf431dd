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

from storage import checkpoints, durable, mixing, provenance
from storage.order import TrainingOrder
from storage.store import Store
from tasks import environment, interruption, progress, stage, tracking
from tasks.harvest import open_store
from tasks.plan import Plan, Step
from trilemma import allocation, pretrained
from trilemma import training as library
from trilemma.config.saes import Pretrained
from trilemma.config.sources import HubCorpus, HubLM
from trilemma.sae import SAE

CURVE = "curve.json"
MIXING = "mixing.json"
SAE_FOLDER = "sae"
_CHECKPOINTS = "checkpoints"
_PARAMETER_BYTES = 4
_STATE_COPIES = 12  # weights and two moments, in each of two checkpoints and one aside
_MIXING_BATCHES = 16
_MIXING_ROWS = 1 << 24  # their documents take a few seconds to count


class _Trainee(NamedTuple):
    step: Step
    member: library.Member
    tracker: tracking.Tracker


@task(name="training", cache_policy=NO_CACHE, retries=0, persist_result=False)
def training(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave one trained SAE for each member of the family, controls included."""
    return stage.perform(plan, plan.of("training"), _body, force=force)


def load_sae(step: Step, device: str) -> SAE:
    """Return the SAE of a training step."""
    return SAE.load(step.folder / SAE_FOLDER, device=device)


def _body(work: stage.Work) -> None:
    store = open_store(work.plan, "train")
    hooks: dict[str, str] = {}
    parameters = 0
    for step in work.pending:
        member = work.plan.member(step.name)
        if isinstance(member.config, Pretrained):
            _convert(work, store, step, member.config)
        else:
            hooks[step.key] = member.hook
            parameters += 2 * store.d_in(member.hook) * member.config.d_sae
    work.check_room(parameters * _PARAMETER_BYTES * _STATE_COPIES)
    with interruption.watched() as asked:
        for hook in dict.fromkeys(hooks.values()):
            steps = [step for step in work.pending if hooks.get(step.key) == hook]
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
    shared = plan.run.training
    order = TrainingOrder(
        store,
        hook,
        seed=shared.seed,
        batch_tokens=shared.batch_tokens,
        open_chunks=shared.open_chunks,
    )
    if order.rows_per_epoch < shared.batch_tokens:
        raise ValueError(
            f"training.batch_tokens: found {shared.batch_tokens}, but the store has "
            f"only {order.rows_per_epoch:,} training rows; lower it, or harvest more"
        )
    num_steps = order.steps_per_epoch * shared.epochs
    mixed = mixing.measure(
        store, order, batches=_MIXING_BATCHES, most_rows=_MIXING_ROWS
    )
    get_run_logger().info(
        "training: a batch of %s spans %s documents, %.2f of a perfect shuffle's %s",
        hook,
        f"{mixed.documents_per_batch:,.0f}",
        mixed.ratio,
        f"{mixed.perfect:,.0f}",
    )
    device = environment.device(plan.run.compute)
    start = library.Start(
        d_in=store.d_in(hook),
        mean=store.mean(hook),
        mean_squared_norm=float(store.statistics(hook)["mean_squared_norm"]),
    )
    began = time.monotonic()
    with allocation.kept(), contextlib.ExitStack() as stack:
        trainees = []
        for step in steps:
            config = plan.member(step.name).config
            assert not isinstance(config, Pretrained)
            member = library.Member(
                config,
                shared,
                start=start,
                num_steps=num_steps,
                key=step.name,
                device=device,
            )
            saved = checkpoints.latest(work.folder(step) / _CHECKPOINTS)
            if saved is not None:
                member.restore(library.Checkpoint(saved.tensors, saved.values))
                get_run_logger().info(
                    "%s: resumes at step %d of %d", step.title, saved.step, num_steps
                )
            tracker = stack.enter_context(
                tracking.opened(plan, step, len(member.curve))
            )
            trainees.append(_Trainee(step, member, tracker))
        first = min(trainee.member.step_index for trainee in trainees)
        waited = _steps(work, order, trainees, range(first, num_steps), asked)
    for trainee in trainees:
        if trainee.step.title not in work.failed:
            target = work.folder(trainee.step)
            sae = trainee.member.export()
            sae.metadata |= _origin(plan, store, hook)
            sae.save(target / SAE_FOLDER)
            durable.write_json(target / CURVE, trainee.member.curve)
            durable.write_json(target / MIXING, mixed._asdict())
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
            num_steps,
            f"{(num_steps - first) * shared.batch_tokens:,}",
            seconds,
            100 * waited / seconds,
        )


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
            for trainee in [t for t in active if t.member.step_index == index]:
                try:
                    row = trainee.member.step(x)
                except library.NonFiniteLossError as error:
                    work.fail(trainee.step, error)
                    active.remove(trainee)
                    continue
                if row is not None:
                    trainee.tracker.log(row)
                    show(
                        (index + 1) * batch, f"fvu {row['fvu']:.3f} l0 {row['l0']:.1f}"
                    )
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
        )
