"""Ctrl-C during training: a checkpoint first, and a message that says what was saved."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers import ROOT, TINY_RECIPE
from safetensors.torch import load_file

from tinystories.cli import main
from tinystories.commands.train import train
from tinystories.recipe import build_recipe
from tinystories.training.trainer import StoryTrainer


pytestmark = pytest.mark.usefixtures("without_dry_run")
SHORT = {
    "max_stories": 60,
    "max_validation_stories": 12,
    "vocab_size": 400,
    "row_length": 256,
    "prompts": [],
    "check": False,
    "model": {**TINY_RECIPE["model"], "hidden_size": 32, "intermediate_size": 48, "attention_dropout": 0.1},
    "trainer": {**TINY_RECIPE["trainer"], "max_steps": 20, "eval_steps": 10, "use_cpu": True},
}


def recipe_for(folder, **overrides):
    own = {"output_dir": str(folder), **overrides}
    return build_recipe({**TINY_RECIPE, **SHORT}, {key: str(value) for key, value in own.items()})


@pytest.fixture(autouse=True)
def default_handler():
    """Python's own handler, also if the tests run in the background of a shell, where Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function that sends SIGINT in the forward pass after `step` complete steps, a number of times."""
    training_step = StoryTrainer.training_step

    def interrupt(step, times=1):
        def pressing(self, *args, **kwargs):
            if self.state.global_step == step:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            return training_step(self, *args, **kwargs)

        monkeypatch.setattr(StoryTrainer, "training_step", pressing if step is not None else training_step)

    return interrupt


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(recipe_for(tmp_path_factory.mktemp("runs") / "whole"))


def same_weights(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ({"save_total_limit": 1}, {"eval_strategy": "epoch", "save_strategy": "epoch"})
        ),
    ],
)
def test_ctrl_c_saves_a_checkpoint_from_which_the_run_resumes(uninterrupted, tmp_path, interrupt_at, settings):
    run = tmp_path / "run"
    interrupt_at(12)
    with pytest.raises(KeyboardInterrupt, match="checkpoint-13: resume from it with --resume_from_checkpoint"):
        train(recipe_for(run, **settings))
    assert (run / "checkpoint-13").is_dir() and not (run / "model.safetensors").exists()
    state = json.loads((run / "checkpoint-13" / "trainer_state.json").read_text())
    evaluated = [entry["step"] for entry in state["log_history"] if "eval_bits_per_byte" in entry]
    assert 13 not in evaluated, "Ctrl-C does not end an epoch"
    interrupt_at(None)
    train(recipe_for(run, resume_from_checkpoint="true", **settings))
    if not settings:
        assert same_weights(run, uninterrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once(tmp_path, interrupt_at):
    run = tmp_path / "run"
    interrupt_at(12, times=2)
    with pytest.raises(KeyboardInterrupt, match="checkpoint-10: resume"):
        train(recipe_for(run))
    assert not (run / "checkpoint-13").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_background_job_still_ignores_ctrl_c(uninterrupted, tmp_path, interrupt_at):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_at(12)
    assert same_weights(train(recipe_for(tmp_path / "run")), uninterrupted)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_elapsed_time_is_kept(tmp_path, interrupt_at):
    run = tmp_path / "run"
    interrupt_at(3)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_for(run, max_minutes=10, logging_steps=100))
    log = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert log[-1]["step"] == 4 and log[-1]["seconds"] > 0


def test_without_checkpoints_the_message_says_that_nothing_was_saved(tmp_path, interrupt_at, capsys):
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump({**TINY_RECIPE, **SHORT}))
    interrupt_at(2)
    assert main(["train", str(recipe), "--output_dir", str(run), "--save_strategy", "no"]) == 130
    assert capsys.readouterr().err.endswith(
        "tinystories: stopped. Nothing was saved, because no checkpoint has been written yet.\n"
    )
    assert not list(run.glob("checkpoint-*"))


def test_before_the_first_step_nothing_is_saved(tmp_path, monkeypatch):
    from tinystories.data import corpus

    def pressed(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(corpus, "recipe_corpus", pressed)
    with pytest.raises(KeyboardInterrupt, match="Nothing was saved"):
        train(recipe_for(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="signals of a terminal")
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_in_a_terminal(tmp_path, workers):
    """SIGINT to every process of the group, as a terminal sends it, also to the workers that read rows."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump({**TINY_RECIPE, **SHORT}))
    options = ["--max_steps", "100000", "--eval_steps", "50000", "--dataloader_num_workers", str(workers)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tinystories", "train", str(recipe), "--output_dir", str(run), "--logging_steps", "5",
         *options],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not (run / "log.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in error, error[-2000:]
    assert error.count("stopping after this step") == 1
    [checkpoint] = run.glob("checkpoint-*")
    assert f"The last complete checkpoint is {checkpoint}: resume from it" in error
