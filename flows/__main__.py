"""The command line: `python -m flows run configs/quickstart.yaml`."""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from tasks.stages import STAGES

# Set before Prefect is imported: nothing is sent to its makers, and a cold start of
# its server on a slow disk takes longer than its own limit.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

DONE, FAILED, MISUSED = 0, 1, 2
# Commands that leave nothing half done.
_LOOKING = ("show", "verify", "export", "push")

app = App(
    name="python -m flows",
    help="Measure rate, distortion and polysemanticity of sparse autoencoders.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

Profile = Annotated[str, Parameter(help="A YAML profile, such as configs/toy.yaml.")]
Word = Annotated[
    str, Parameter(help="A change to it: dotted.key=value, such as saes.0.k=8.")
]
Force = Annotated[
    bool, Parameter(negative=(), help="Make this stage again though it is done.")
]


Sae = Annotated[str, Parameter(help="An SAE of its family, such as topk-k16.")]


def main(words: list[str] | None = None) -> int:
    """Run the command line, or the words given instead, and return the exit status."""
    words = sys.argv[1:] if words is None else words
    try:
        with _terminable():
            result = app(words, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        again = "run again" if words[0] in _LOOKING else "resume"
        print(f"stopped; {again} with: {_command(*words)}", file=sys.stderr)
        return FAILED
    except CycloptsError as error:
        print(
            f"{_one_line(error).rstrip('.')}; see python -m flows --help",
            file=sys.stderr,
        )
        return MISUSED
    return result if isinstance(result, int) else DONE


@app.command
def run(profile: Profile, *words: Word) -> int:
    """Run every stage of a profile; cached ones are skipped."""
    return _flow("run", profile, words, {})


def _stage_command(stage: str) -> None:
    def command(profile: Profile, *words: Word, force: Force = False) -> int:
        return _flow(stage, profile, words, {"force": force})

    command.__doc__ = f"Run the {stage} stage, and what it lacks."
    app.command(command, name=stage)


for _stage in STAGES:
    _stage_command(_stage)


Night = Annotated[str, Parameter(help="A list of profiles: configs/nightly.yaml.")]


@app.command
def nightly(night: Night, *words: Word) -> int:
    """Run the profiles of a night, one after another, once and now."""
    chosen = _night(night, words)
    if chosen is None:
        return MISUSED
    from flows import temporary_server
    from flows.nightly import Night as Ended
    from flows.nightly import nightly as flow
    from tasks.interruption import Interrupted

    command = _command("nightly", night, *words)
    profiles, changes = list(chosen.profiles), list(chosen.words)
    temporary_server.start()
    state = flow(profiles, changes, return_state=True)
    ended = state.result(raise_on_failure=False)
    if isinstance(ended, Interrupted):
        print(f"stopped: {ended}; resume with: {command}", file=sys.stderr)
        return FAILED
    if not isinstance(ended, Ended):
        print(
            f"nightly: {_one_line(ended)}; run again with: {command}", file=sys.stderr
        )
        return FAILED
    for profile in ended.cached:
        print(f"{profile}: cached")
    for profile in ended.made:
        print(f"{profile}: done")
    for profile, reason in ended.failed.items():
        again = _command("run", profile, *changes)
        print(f"{profile}: {reason}; resume with: {again}", file=sys.stderr)
    return FAILED if ended.failed else DONE


@app.command
def serve(
    night: Night,
    *words: Word,
    cron: Annotated[str, Parameter(help="When, such as '0 2 * * *'.")],
    timezone: Annotated[str, Parameter(help="Of the cron line.")] = "UTC",
) -> int:
    """Run the profiles of a night at the times of a cron line, until stopped."""
    chosen = _night(night, words)
    if chosen is None:
        return MISUSED
    from flows import serving

    try:
        when = serving.schedule(cron, timezone)
    except ValueError as error:
        print(error, file=sys.stderr)
        return MISUSED
    from flows.nightly import nightly as flow

    try:
        serving.serve(flow, chosen, when)
    except serving.ServerError as error:
        print(error, file=sys.stderr)
        return FAILED
    return DONE


@app.command
def show(profile: Profile, *words: Word, json: bool = False) -> int:
    """Show the stages of a run and their states."""
    plan = _plan(profile, words)
    if plan is None:
        return MISUSED
    from storage.places import PlaceError
    from tasks import summary

    try:
        print(summary.states_json(plan) if json else summary.states_text(plan).rstrip())
    except PlaceError as error:
        print(error, file=sys.stderr)
        return MISUSED
    return DONE


@app.command
def verify(profile: Profile, *words: Word) -> int:
    """Read every byte of a run's artifacts again and compare with the manifests."""
    plan = _plan(profile, words)
    if plan is None:
        return MISUSED
    from storage.places import PlaceError
    from tasks import verification

    try:
        found = verification.verify(plan, say=lambda line: print(line, file=sys.stderr))
    except PlaceError as error:
        print(error, file=sys.stderr)
        return MISUSED
    for title, lines in found.faults.items():
        for line in lines:
            print(f"{title}: {line}", file=sys.stderr)
    if not found.checked:
        print(f"verified nothing: none of {len(plan.steps)} artifacts is there yet")
        return DONE
    print(
        f"verified {found.checked} of {len(plan.steps)} artifacts, "
        f"{found.bytes / 2**20:,.1f} MiB: {len(found.faults)} damaged"
    )
    if found.faults:
        print("delete what is named above and run the profile again", file=sys.stderr)
    return FAILED if found.faults else DONE


@app.command
def export(
    profile: Profile,
    sae: Sae,
    *words: Word,
    file_format: Annotated[
        Literal["saelens", "dictionary_learning", "sparsify"],
        Parameter(name="--format", help="Whose package is to load it."),
    ] = "saelens",
    to: Annotated[Path, Parameter(help="A folder that is new or empty.")],
) -> int:
    """Write one trained SAE into a folder that SAELens or another tool loads."""
    plan = _plan(profile, words)
    if plan is None:
        return MISUSED
    from tasks import exporting

    try:
        exporting.export(plan, sae, to, file_format=file_format)
    except (ValueError, OSError) as error:
        print(f"export: {_one_line(error)}", file=sys.stderr)
        return MISUSED
    print(f"{sae}: written to {to} for {file_format}")
    return DONE


@app.command
def push(
    profile: Profile,
    sae: Sae,
    *words: Word,
    repo: Annotated[str, Parameter(help="On the Hugging Face hub: owner/name.")],
) -> int:
    """Put one trained SAE on the hub, where SAELens finds it."""
    plan = _plan(profile, words)
    if plan is None:
        return MISUSED
    from tasks import exporting

    try:
        exporting.push(plan, sae, repo)
    except (ValueError, OSError) as error:
        print(f"push: {_one_line(error)}", file=sys.stderr)
        return FAILED
    print(f"{sae}: pushed to {repo}/{sae}")
    return DONE


def _flow(
    name: str, profile: str, words: tuple[str, ...], settings: dict[str, Any]
) -> int:
    """Run a flow and print how it ended."""
    began = time.monotonic()
    plan = _plan(profile, words)
    if plan is None:
        return MISUSED
    import importlib

    from flows import temporary_server
    from flows.pipeline import Ending
    from storage.artifacts import ArtifactError
    from storage.places import PlaceError
    from tasks import summary
    from tasks.interruption import Interrupted
    from tasks.stage import failure

    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    again = ["--force"] if settings.get("force") else []
    command = _command(name, profile, *words, *again)
    temporary_server.start()
    state = flow(plan.run, **settings, return_state=True)
    ending = state.result(raise_on_failure=False)
    if isinstance(ending, Interrupted):
        print(f"stopped: {ending}; resume with: {command}", file=sys.stderr)
        return FAILED
    if not isinstance(ending, Ending):
        print(
            f"{name}: {_one_line(ending)}; run again with: {command}", file=sys.stderr
        )
        return FAILED
    seconds = time.monotonic() - began
    is_told = False
    try:
        text = summary.ending_text(plan, ending.cached, ending.made, seconds)
        print(text.rstrip())
        is_told = True
    except (ArtifactError, PlaceError) as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
    for reason in dict.fromkeys(ending.failed.values()):
        titles = ", ".join(t for t, why in ending.failed.items() if why == reason)
        told = failure(titles, reason)
        print(f"{told}; resume with: {command}", file=sys.stderr)
    return FAILED if ending.failed or not is_told else DONE


def _plan(profile: str, words: tuple[str, ...]) -> Any:  # Plan: imported only here
    from storage import home
    from trilemma import config

    try:
        run = config.load(profile, words)
        where = home.find()
        home.prepare(where)
        # Imported last: it brings torch and transformers with it.
        from tasks import plan

        return plan.make(run, where)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return None


def _night(path: str, words: tuple[str, ...]) -> Any:  # Nightly: imported only here
    from trilemma.config import nightly

    try:
        return nightly.load(path, words)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return None


def _command(*words: str) -> str:
    """Return a command line as one types it into a shell."""
    return shlex.join(["python", "-m", "flows", *words])


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; stages that checkpoint watch both."""
    usual = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
