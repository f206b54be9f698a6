"""Consoles and systems other than Linux with UTF-8: encodings, file handles, arguments."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import TINY_RECIPE

from tinystories.cli import main
from tinystories.runs import checkpoints
from tinystories.utils.console import counted


ROOT = Path(__file__).parents[2]


def generate(run, prompt: bytes | str, encoding: str | None = None, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    code = "import sys; from tinystories.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "generate", str(run), prompt, "--max-new-tokens", "3", *options]
    return subprocess.run(command, env=environment, capture_output=True)


@pytest.mark.parametrize("encoding", ["cp1252", pytest.param("ascii", marks=pytest.mark.slow)])
def test_characters_that_the_console_lacks_are_escaped(tiny_run, encoding):
    result = generate(tiny_run, "The \N{CAT} said", encoding)
    assert result.returncode == 0, result.stderr
    assert b"The \\U0001f408 said" in result.stdout


ENCODINGS = {
    "cp1252": "\N{CAT}",
    "latin-1": "\N{LEFT DOUBLE QUOTATION MARK}",
    "ascii": "\N{LATIN SMALL LETTER E WITH ACUTE}",
}


def in_encoding(encoding: str, *arguments, script: str | None = None) -> str:
    """The output of a verb, or of a script of the repository, on a console of this encoding; it must not fail."""
    if script is None:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            status = main(list(map(str, arguments)))
        for stream in streams:
            stream.flush()
        written = b"".join(stream.buffer.getvalue() for stream in streams).decode(encoding)
    else:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, env=environment, capture_output=True)
        status, written = result.returncode, (result.stdout + result.stderr).decode(encoding)
    assert "UnicodeEncodeError" not in written and "Traceback" not in written, written
    assert status in (0, 1), written
    return written


def escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_verbs_print_any_character_of_their_arguments(encoding, tiny_run, tmp_path):
    odd = ENCODINGS[encoding]
    assert f"{escape(odd)} said" in in_encoding(encoding, "generate", tiny_run, f"{odd} said", "--max-new-tokens", 3)
    stories = tmp_path / f"{odd}.jsonl"
    texts = [f"The {odd} said \x07 that it was story {number}." for number in range(30)]
    stories.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    found = in_encoding(encoding, "doctor", stories)
    assert f"{escape(odd)} said \\x07 that" in found and "\\\\" not in found
    assert escape(odd) in in_encoding(encoding, "tokenizer", "sample", tmp_path / odd, "--max-stories", 50)


def test_evaluate_prints_any_character(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "\N{CAT}")
    written = in_encoding("cp1252", "evaluate", run, "--corpus", "sample", "--limit", 3, "--quick")
    assert "\\U0001f408" in written.split("held-out stories")[1]


@pytest.mark.slow
def test_train_prints_any_character_in_its_samples(tmp_path):
    """With `train_hf.py`; without the error handler, the output would end before the last stories."""
    recipe = {**TINY_RECIPE, "prompts": ["The \N{CAT} said", "Once"], "check": False}
    changes = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "eval_steps": 1, "disable_tqdm": False}
    recipe["trainer"] = {**recipe["trainer"], **changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), "utf-8")
    written = in_encoding("ascii", tmp_path / "recipe.yaml", script="train_hf.py")
    assert written.count("The \\U0001f408 said") >= 2  # the sample at an evaluation, and the story at the end
    assert "story 2" in written and "The model is in" in written


@pytest.mark.slow
def test_push_prints_any_character_of_a_run_name(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "\N{CAT}")
    options = ("--repo-id", "ada/x", "--dry-run", "--out", tmp_path / "\N{DOG}")
    assert "\\U0001f4" in in_encoding("ascii", run, *options, script="push_to_hub.py")


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_print_any_character_as_well(script):
    source = script.read_text("utf-8")
    if "__main__" in source:
        assert "    print_any_character()\n    main()" in source


def test_an_argument_that_is_not_utf8_is_refused_in_one_line(tiny_run):
    result = generate(tiny_run, b"The caf\xe9", "utf-8")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1 and b"not valid UTF-8" in result.stderr


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_out_of_range_is_refused_in_one_line(tiny_run, verb, seed, capsys):
    prompt = ["One day"] if verb == "generate" else []
    assert main([verb, str(tiny_run), *prompt, "--seed", str(seed)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--seed" in error and str(seed) in error


def test_a_checkpoint_is_flushed_through_handles_that_are_open_for_writing(tmp_path, monkeypatch):
    """As on Windows, where flushing a handle that is open for reading fails."""
    import fcntl

    flushed = []

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    (tmp_path / checkpoints.TRAINER_STATE).write_text('{"global_step": 1}')
    checkpoints.write_manifest(tmp_path)
    assert len(flushed) == 3
    assert (tmp_path / checkpoints.MANIFEST).is_file() and checkpoints.incomplete_reason(tmp_path) is None


def test_a_number_in_a_message_has_its_noun_in_the_singular_or_plural():
    counts = [counted(1, "training story"), counted(1500, "story"), counted(0, "row"), counted(1, "row")]
    assert counts == ["1 training story", "1,500 stories", "0 rows", "1 row"]


def test_bars_of_libraries_spare_log_files(tmp_path):
    code = """
import time
from tinystories.cli import main
try:
    main(["--version"])
except SystemExit:
    pass
from datasets.utils import tqdm
for _ in tqdm(range(300)):
    time.sleep(0.002)
"""
    for setting, updates in ({}, range(1, 4)), ({"TQDM_MININTERVAL": "0.01"}, range(10, 300)):
        environment = {**os.environ, **setting}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, cwd=ROOT, check=True)
        assert done.stderr.count(b"300 [") in updates, done.stderr
