"""The command line: exit statuses, and one line for each mistake of a user."""

import json
import os
import subprocess
import sys

import pytest

from flows.__main__ import main
from storage import home as homes

TOY = "configs/toy.yaml"
NO_TOY = "toy=null"
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
        (["show", TOY, "saes.0.kk=3"], "saes.0.kk: is not a key"),
        (["show", TOY, "saes.0.k=abc"], "saes.0.k: found 'abc'"),
        (["show", TOY, "saes.0.k=9999"], "saes.0.k: found 9999; must not exceed"),
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
