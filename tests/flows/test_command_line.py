"""The command line: exit statuses, and one line for each mistake of a user."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.__main__ import main
from storage import home as homes

TOY = "configs/toy.yaml"
NO_TOY = "toy=null"
TWINS = "saes=[{kind: topk, d_sae: 8, k: 3}, {kind: topk, d_sae: 8, k: 3}]"
CORPUS = "corpus={kind: embedded}"
HARVEST = "harvest={hooks: [a]}"
NO_TEXT = "corpus={kind: text, paths: [/none/*.txt]}"


@pytest.fixture
def said(home, monkeypatch, capsys):
    """Return a function that gives words to the command line in this process."""
    monkeypatch.setenv(homes.VARIABLE, str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*words):
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trainig", TOY], "training"),
        (["run"], "--profile"),
        (["run", TOY, "--frce"], "--frce"),
        (["show", "/none.yaml"], "/none.yaml: cannot be read"),
        (["show", "configs/nightly.yaml"], "is a list of profiles; name one of them"),
        (["show", TOY, "saes.0.kk=3"], "saes.0.kk: is not a key"),
        (["show", TOY, "saes.0.k=abc"], "saes.0.k: found 'abc'"),
        (["show", TOY, "saes.0.k=9999"], "saes.0.k: found 9999; must not exceed"),
        (["show", TOY, "saes.0.d_sae=0"], "saes.0.d_sae: found 0; input should be gr"),
        (["show", TOY, TWINS], "saes: found 2 equal SAEs named 'topk-k3'"),
        (["show", TOY, "saes.0.hook=a"], "saes.0.hook: found 'a'; name one of toy"),
        (
            ["run", TOY, NO_TOY, "lm={kind: local, path: /none}", CORPUS, HARVEST],
            "lm.path: no folder '/none'",
        ),
        (
            ["run", TOY, NO_TOY, "lm={kind: hub, id: nobody/none}", CORPUS, HARVEST],
            "lm.id: ",
        ),
        (
            ["run", TOY, NO_TOY, "lm={kind: embedded}", HARVEST, NO_TEXT],
            "corpus.paths",
        ),
    ],
)
def test_mistake_is_status_2_and_one_line(said, words, hint):
    status, _, err = said(*words)
    assert status == 2
    assert hint in err
    assert len(err.splitlines()) == 1


def test_home_that_is_not_writable_is_status_2_and_one_line(
    said, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    home = str(tmp_path / "file" / "home")
    monkeypatch.setenv(homes.VARIABLE, home)
    status, _, err = said("show", TOY)
    assert status == 2
    assert f"{home}: cannot be written" in err
    assert len(err.splitlines()) == 1


def test_show_lists_the_steps_before_anything_ran(said):
    status, out, _ = said("show", TOY, "--json")
    assert status == 0
    assert {row["state"] for row in json.loads(out)} == {"missing"}


def test_show_is_readable(said):
    status, out, _ = said("show", TOY)
    assert status == 0
    assert "frozen-random" in out


def test_process_ends_with_status_1_and_the_command_that_resumes(flows, profile):
    ended = flows("run", profile, "training.batch_tokens=100000")
    assert ended.status == 1
    (line,) = [x for x in ended.err.splitlines() if "resume with" in x]
    assert "training.batch_tokens: found 100000, but the store has only" in line
    assert f"resume with: python -m flows run {profile} training.batch_tokens" in line
    assert "Traceback" not in ended.err
    # Prefect would say so once more, with the traceback of no exception.
    assert "NoneType" not in ended.err
    assert "Task run failed" not in ended.err


def test_verify_finds_a_flipped_bit(flows, profile, home, said):
    ended = flows("harvest", profile)
    assert ended.status == 0, ended.err
    assert said("verify", profile)[0] == 0
    (chunk,) = home.glob("harvest/*/eval.zarr/toy/activations/c/0/0")
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    status, _, err = said("verify", profile)
    assert status == 1
    assert f"{chunk}: its bytes have changed" in err


def test_torn_manifest_is_damage_to_verify_and_a_state_to_show(flows, profile, said):
    ended = flows("harvest", profile)
    assert ended.status == 0, ended.err
    row = json.loads(said("show", profile, "--json")[1])[0]
    path = Path(row["path"]) / "MANIFEST.json"
    path.write_text(path.read_text()[:40])
    status, out, err = said("verify", profile)
    assert status == 1
    assert "1 damaged" in out
    assert f"harvest: {path}: is not a manifest" in err
    status, out, _ = said("show", profile, "--json")
    assert status == 0
    states = [row["state"] for row in json.loads(out)]
    assert states == ["failed"] + ["missing"] * 12
    assert "failed" in said("show", profile)[1]


def test_command_that_resumes_can_be_pasted_into_a_shell(flows, profile):
    word = "saes=[{kind: topk, d_sae: 12, k: 2}]"
    ended = flows("training", profile, word, "training.batch_tokens=100000", "--force")
    (line,) = [x for x in ended.err.splitlines() if "resume with" in x]
    words = shlex.split(line.partition("resume with: ")[2])
    assert words[3:] == [
        "training",
        str(profile),
        word,
        "training.batch_tokens=100000",
        "--force",
    ]


def test_profile_that_is_a_folder_is_status_2_and_one_line(said, tmp_path):
    status, _, err = said("show", tmp_path)
    assert status == 2
    assert len(err.splitlines()) == 1


def test_source_that_cannot_be_read_is_status_2_and_one_line(said):
    # Not even root can read it from its start.
    corpus = "corpus={kind: text, paths: [/proc/self/mem]}"
    status, _, err = said("run", TOY, NO_TOY, "lm={kind: embedded}", HARVEST, corpus)
    assert status == 2
    assert "Errno" in err
    assert len(err.splitlines()) == 1


# As by `kill`, and by Ctrl-C in a terminal, which Prefect's server there gets too.
@pytest.mark.parametrize(
    ("stop", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)]
)
def test_stage_that_does_not_watch_stops_with_the_command_that_resumes(
    home, start_flows, text_profile, stop, number
):
    word = "lm.train_tokens=50000000"
    process = start_flows(home, "lm", text_profile, word)
    deadline = time.monotonic() + 120
    while not list(home.glob("lm/*/BEGUN.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    stop(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = [x for x in err.splitlines() if "resume with" in x]
    assert line == f"stopped; resume with: python -m flows lm {text_profile} {word}"
    assert "Traceback" not in err


def test_help_imports_neither_torch_nor_prefect():
    code = (
        "import sys\n"
        "from flows.__main__ import main\n"
        "main(['--help'])\n"
        "print(sorted({'torch', 'prefect'} & set(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert ended.stderr.strip() == "[]"
    assert "nightly" in ended.stdout
