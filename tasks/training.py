"""The `training` stage: all missing SAEs of a hook in one pass over its activations."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import durable
from storage.store import Store
from tasks import (
    environment,
    hook_rows,
    hooks,
    interruption,
    progress,
    stage,
    stepping,
    terms,
    torchrun,
    tracking,
)
from tasks.harvest import open_store
from tasks.hook_rows import HookRows
from tasks.hooks import Hooks
from tasks.plan import Plan, Step
from tasks.rank import Job
from tasks.stepping import Trainee
from trilemma import pretrained
from trilemma import training as library
from trilemma.config import joint
from trilemma.config.pretrained import Pretrained
from trilemma.config.sources import HubCorpus, HubLM
from trilemma.config.stages import Compute
from trilemma.ranks import ALONE
from trilemma.sae import SAE

CURVE = "curve.json"
MIXING = "mixing.json"
SAE_FOLDER = "sae"
_PARAMETER_BYTES = 4
_FOLDERS = 4  # two checkpoints, one aside, and what is exported


@task(name="training", cache_policy=NO_CACHE, retries=0, persist_result=False)
def training(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave one trained SAE for each member of the family, controls included."""
    return stage.perform(plan, plan.of("training"), _body, force=force)


def load_sae(step: Step, device: str) -> SAE:
    """Return the SAE of a training step."""
    return SAE.load(step.folder / SAE_FOLDER, device=device)


def load_sae_of_rows(plan: Plan, step: Step, device: str) -> SAE:
    """Return the SAE of a training step, for rows as `hook_rows` gives them."""
    sae = load_sae(step, device)
    found = hook_rows.joint(plan, plan.member(step.name).hook)
    return sae if found is None else found.of_rows(sae)


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
            d_in, d_out = (
                hook_rows.width(store, hook)
                for hook in (member.hook, member.target_hook)
            )
            parameters += (d_in + d_out) * member.config.d_sae
            parameters += d_in * d_out * member.config.skip
    # Weights, two moments, and perhaps a running mean.
    tensors = 3 + (work.plan.run.training.ema_decay is not None)
    work.check_room(parameters * _PARAMETER_BYTES * tensors * _FOLDERS)
    with interruption.watched() as asked:
        for hook in dict.fromkeys(hook_of.values()):
            steps = [step for step in work.pending if hook_of.get(step.key) == hook]
            _train_hook(work, store, hook, steps, asked)


def _convert(work: stage.Work, store: Store, step: Step, config: Pretrained) -> None:
    """Leave a published SAE in SAELens's format, with a curve of no steps."""
    hook = work.plan.member(step.name).hook
    parts = joint.parts(hook)
    commit = work.plan.pinned.get(f"saes/{step.name}")
    try:
        if config.path is not None:
            pinned = step.section["sae"]["files"]
            if pretrained.source(config).section["files"] != pinned:
                raise ValueError(
                    f"saes.path: the files in {config.path!r} have changed since this "
                    "run was planned; run it again"
                )
        target = config.target_hook
        sae = pretrained.load(
            config,
            commit=commit,
            d_in=hook_rows.width(store, hook),
            d_out=None if target is None else store.d_in(target),
            widths=tuple(map(store.d_in, parts)) if len(parts) > 1 else (),
        )
    except ValueError as error:
        work.fail(step, error)
        return
    stands = {"hook_name": hook, "hook_name_out": config.target_hook}
    for key, where in stands.items():
        if sae.metadata.get(key) is None and where is not None:
            sae.metadata[key] = where
        elif where is not None and sae.metadata[key] != where:
            get_run_logger().warning(
                "%s: says that it %s %s, but stands on %s",
                step.title,
                "reads" if key == "hook_name" else "reconstructs",
                sae.metadata[key],
                where,
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
    plan, compute = work.plan, work.plan.run.compute
    members = [plan.member(step.name) for step in steps]
    found = hooks.prepare(plan, store, hook, members)
    _check_ranks(compute, found)
    model = terms.load_lm(plan, steps)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        trainees = []
        for step in steps:
            try:
                needed = terms.needed(
                    plan, step, store, starts=found.starts, model=model
                )
                member = _member(work, step, found, needed)
            except ValueError as error:
                work.fail(step, error)
                continue
            tracker = stack.enter_context(
                tracking.opened(plan, step, len(member.curve))
            )
            trainees.append(Trainee(step, member, tracker, needed))
        if not trainees:
            return
        first = min(trainee.member.step_index for trainee in trainees)
        span = range(first, found.num_steps)
        batch = plan.run.training.batch_tokens
        show = stack.enter_context(
            progress.shown("training", span.stop * batch, "tokens", first * batch)
        )
        # Ranks without a step would have nothing that keeps them together.
        if compute.ranks_per_sae > 1 and span:
            folders = {
                trainee.step.key: work.folder(trainee.step) for trainee in trainees
            }
            job = Job(plan, found.starts, span, folders)
            waited = _steps_in_ranks(work, job, trainees, asked=asked, show=show)
        else:
            waited = stepping.steps(
                work, found.orders, trainees, span, asked=asked, show=show
            )
    for trainee in trainees:
        if trainee.step.title not in work.failed:
            target = work.folder(trainee.step)
            sae = trainee.member.export()
            rows = hook_rows.of(plan, "train", hook)
            if rows.joint is not None:
                sae = rows.joint.of_activations(sae)
                sae.metadata["trilemma"]["hook_scales"] = list(rows.joint.scales)
            sae.metadata |= _origin(plan, rows)
            if trainee.member.config.target_hook is not None:
                sae.metadata["hook_name_out"] = trainee.member.config.target_hook
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
            f"{len(span) * batch:,}",
            seconds,
            100 * waited / seconds,
        )


def _check_ranks(compute: Compute, found: Hooks) -> None:
    """Check that every rank has a GPU, if there are any, and a row of every batch.

    Raises:
        ValueError: one would not.
    """
    ranks = compute.ranks_per_sae
    gpus = torch.cuda.device_count()
    if environment.device(compute) == "cuda" and ranks > gpus:
        raise ValueError(
            f"compute.ranks_per_sae: found {ranks}, but torch sees only {gpus} GPUs; "
            "each rank needs its own"
        )
    order = next(iter(found.orders.values()))
    smallest = order.rows_per_epoch % order.batch_tokens or order.batch_tokens
    if ranks > smallest:
        raise ValueError(
            f"compute.ranks_per_sae: found {ranks}, but the last batch of an epoch has "
            f"only {smallest} rows; lower it, or change training.batch_tokens"
        )


def _member(
    work: stage.Work, step: Step, found: Hooks, needed: terms.Needed
) -> library.Member:
    """Return an SAE in training, as `stepping.member` does, and tell of it."""
    compute = work.plan.run.compute
    member = stepping.member(
        work,
        step,
        starts=found.starts,
        num_steps=found.num_steps,
        held_out=found.held_out,
        needed=needed,
        # Where ranks do the work, this process only holds what comes of it.
        device="cpu" if compute.ranks_per_sae > 1 else environment.device(compute),
        ranks=ALONE,
    )
    config, log = member.config, get_run_logger()
    log.info(
        "%s: peak lr %.3g%s, %s steps, %s tokens",
        step.title,
        member.peak_lr,
        "" if config.lr else f", from a width of {config.d_sae:,} latents",
        f"{found.num_steps:,}",
        f"{found.num_tokens:,}",
    )
    if member.step_index:
        log.info(
            "%s: resumes at step %d of %d",
            step.title,
            member.step_index,
            found.num_steps,
        )
    return member


def _steps_in_ranks(
    work: stage.Work,
    job: Job,
    trainees: list[Trainee],
    *,
    asked: Callable[[], bool],
    show: Callable[[int, str], None],
) -> float:
    """Let ranks train every SAE; return the seconds for which data was waited."""
    by_key = {trainee.step.key: trainee for trainee in trainees}
    num_ranks = work.plan.run.compute.ranks_per_sae
    waited = 0.0
    with contextlib.closing(
        torchrun.told_by("tasks.rank", job, num_ranks=num_ranks, asked=asked)
    ) as ranks:
        for told in ranks:
            match told:
                case ("row", (key, row)):
                    by_key[key].tracker.log(row)
                case ("shown", (done, detail)):
                    show(done, detail)
                case ("lost", (key, reason)):
                    work.fail(by_key[key].step, ArithmeticError(reason))
                case ("waited", (seconds,)):
                    waited = seconds
    for trainee in trainees:
        stepping.restore(work, trainee.step, trainee.member)
    return waited


def _origin(plan: Plan, rows: HookRows) -> dict[str, Any]:
    """Return what the SAE's metadata says of the activations, in SAELens's words.

    A source on this machine is named by its kind: its path is in no key.
    """
    lm, corpus = plan.run.lm, plan.run.corpus
    dataset = corpus.id if isinstance(corpus, HubCorpus) else corpus and corpus.kind
    return {
        "hook_name": rows.hook,
        "context_size": rows.store.ctx,
        "model_name": lm.id if isinstance(lm, HubLM) else lm and lm.kind,
        "dataset_path": dataset,
        "trilemma_origin": rows.origin,
    }
