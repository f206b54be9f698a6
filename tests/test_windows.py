"""Whole commands under Windows' rules for files (see `windows.py`)."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import TINY_RECIPE
from windows import like_windows

from tinystories.cli import main
from tinystories.commands.train import train
from tinystories.recipe import build_recipe
from tinystories.runs import checkpoints
from tinystories.runs.run_folder import find_checkpoints


def recipe_for(folder, **overrides):
    content = {**TINY_RECIPE, "max_stories": 60, "max_validation_stories": 12, "vocab_size": 400}
    own = {"output_dir": folder, "max_steps": 6, "eval_steps": 2, "save_total_limit": 1, **overrides}
    return build_recipe(content, {key: str(value) for key, value in own.items()})


def test_the_rules_are_those_of_windows(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 5000)
    with like_windows(tmp_path):
        with file.open("rb") as open_file:
            with pytest.raises(OSError, match="Bad file"):
                os.fsync(open_file.fileno())
            for move in (file.unlink, lambda: file.rename(tmp_path / "b"), lambda: (tmp_path / "c").replace(file)):
                (tmp_path / "c").write_bytes(b"")
                with pytest.raises(PermissionError, match="file is open"):
                    move()
            with pytest.raises(PermissionError):
                shutil.rmtree(tmp_path)
        mapped = np.memmap(file, mode="r")
        with pytest.raises(PermissionError, match="being used"):  # numpy keeps the file open in addition to the map
            file.unlink()
        del mapped
        with pytest.raises(FileExistsError):
            (tmp_path / "c").rename(file)
        file.unlink()
    assert hasattr(os, "getuid")


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{}, {"ema_decay": 0.9}, {"streaming": "true"}], ids=str)
def test_training_and_starting_over(tmp_path, overrides):
    with like_windows(tmp_path):
        run = train(recipe_for(tmp_path / "run", **overrides))
        assert len(find_checkpoints(run)) in (1, 2), "older checkpoints were deleted"
        assert all(checkpoints.incomplete_reason(folder) is None for folder in find_checkpoints(run))
        train(recipe_for(run, **overrides, overwrite_output_dir="true"))


@pytest.mark.slow
def test_resuming_from_a_checkpoint(tmp_path):
    settings = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": "{}"}
    with like_windows(tmp_path):
        run = train(recipe_for(tmp_path / "run", **settings))
        train(recipe_for(run, **settings, max_steps=8, resume_from_checkpoint="true"))
    assert json.loads((run / "trainer_state.json").read_text("utf-8"))["global_step"] == 8


EXPORTS = {
    "llama": ["--to", "phi3"],
    "gguf": ["--to", "gguf"],
    "gguf as q8_0": ["--to", "gguf", "--dtype", "q8_0"],
    "onnx": ["--to", "onnx"],
    "onnx as q8": ["--to", "onnx", "--dtype", "q8"],
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if "onnx" in kind else []) for kind in EXPORTS]
)
def test_exports(tiny_run, tmp_path, kind):
    for package in {"gguf": ["gguf"], "onnx": ["onnx_ir", "onnxruntime", "onnxscript"]}.get(kind.split()[0], []):
        pytest.importorskip(package)
    out = tmp_path / ("model.gguf" if "gguf" in kind else "out")
    if "gguf" not in kind:
        out.mkdir()  # empty folders are written to
    with like_windows(tmp_path):
        assert main(["export", str(tiny_run), str(out), *EXPORTS[kind]]) == 0
    assert out.exists() and not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_imports(tiny_run, tmp_path):
    assert main(["export", str(tiny_run), str(tmp_path / "stock")]) == 0
    with like_windows(tmp_path):
        assert main(["import", str(tmp_path / "stock"), str(tmp_path / "back")]) == 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_release_is_built_and_checked(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with like_windows(tmp_path):
        assert main(["push", str(tiny_run), "--repo-id", "ada/story", "--dry-run", "--include", "llama"]) == 0
    assert not list(tmp_path.iterdir())


def test_stories_are_cleaned_into_an_empty_folder(tmp_path):
    stories = "\n<|endoftext|>\n".join(
        f"Tom saw {n}  cats . He was happy. " + "They played in the park all day. " * 5 for n in range(40)
    )
    (tmp_path / "stories.txt").write_text(stories, "utf-8")
    (tmp_path / "out").mkdir()
    with like_windows(tmp_path):
        assert main(["doctor", str(tmp_path / "stories.txt"), "--clean", str(tmp_path / "out")]) in (0, 1)
    assert list((tmp_path / "out").iterdir())


def test_a_report(tiny_run, tmp_path):
    with like_windows(tmp_path):
        for _ in range(2):  # the second replaces the first
            command = ["evaluate", str(tiny_run), "--limit", "4", "--presets", "plain", "--out", str(tmp_path / "out")]
            assert main(command) == 0
    assert (tmp_path / "out" / "report.json").is_file()


def test_a_log_that_another_program_has_open_does_not_end_training(tmp_path, capsys):
    """A spreadsheet locks the files that it shows, on Windows."""
    run = tmp_path / "run"
    run.mkdir()
    with (run / "log.csv").open("w"), (run / "stories.jsonl").open("w"), (run / "loss.png").open("w"):
        with like_windows(tmp_path):
            train(recipe_for(run))
    error = capsys.readouterr().err
    for name in ("log.csv", "stories.jsonl"):
        assert error.count(f"{name} cannot be written") == 1
    assert (run / "model.safetensors").is_file()


@pytest.mark.slow
def test_files_are_read_and_written_as_utf8_whatever_the_system_prefers(tmp_path):
    """Python warns if a file is opened without an encoding, which on Windows would be that of the locale."""
    (tmp_path / "stories.txt").write_text(
        "\n<|endoftext|>\n".join(f"Zoë saw {n} cafés. “Hi,” she said." for n in range(200)), "utf-8"
    )
    code = """
import sys
from tinystories.cli import main
sys.exit(main(sys.argv[1:]))
"""
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "utf-8",
    }
    run = tmp_path / "run"
    from tinystories.recipe import save_recipe

    save_recipe(
        recipe_for(run, corpus=tmp_path / "stories.txt", max_stories="null", prompts="[Zoë]"), tmp_path / "r.yaml"
    )
    for command in (["train", tmp_path / "r.yaml"], ["generate", run, "Tom", "--max-new-tokens", "3"]):
        result = subprocess.run(
            [sys.executable, "-X", "warn_default_encoding", "-c", code, *map(str, command)],
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        assert result.returncode == 0, result.stderr[-2000:]
        ours = [
            line for line in result.stderr.splitlines() if "EncodingWarning" in line and "site-packages" not in line
        ]
        assert not ours
