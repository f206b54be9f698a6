"""Training with a time limit."""

import json
import re
import time

import pytest
from transformers import TrainingArguments

from tinystories.checks.log import read_log
from tinystories.checks.trained_run import TrainedRun
from tinystories.commands.train import train
from tinystories.recipe import load_recipe
from tinystories.runs.loading import load_model
from tinystories.training.arguments import training_arguments
from tinystories.training.lr_schedules import timed_lr_lambda
from tinystories.training.time_limit import TimeLimitCallback
from tinystories.utils.errors import UserError


pytestmark = pytest.mark.usefixtures("without_dry_run")


def log_of(run):
    return json.loads((run / "trainer_state.json").read_text())


def test_a_run_ends_on_time_at_the_end_of_its_schedule(tiny_recipe, capfd):
    began = time.perf_counter()
    run = train(
        tiny_recipe(
            max_minutes=0.05, max_stories=60, disable_tqdm=False, logging_steps=1, eval_steps=10_000, warmup_steps=5
        )
    )
    assert time.perf_counter() - began > 3
    assert re.search(r"Training: +\d+%\|.*\| \d/3 s \[\d\d:\d\d left", capfd.readouterr().err)
    state = log_of(run)
    assert 5 < state["global_step"] == state["max_steps"] < 10_000
    trained = [entry for entry in state["log_history"] if "learning_rate" in entry]
    assert 2 < trained[-1]["seconds"] < 6
    rates = [entry["learning_rate"] for entry in trained]
    assert rates[4] == max(rates) and rates[:5] == sorted(rates[:5]), "the warm-up is counted in steps"
    assert rates[4:] == sorted(rates[4:], reverse=True)
    # A tenth of the highest, as the recipe has it, and the clock is read once a step.
    assert max(rates) * 0.1 <= rates[-1] < max(rates) * 0.2
    assert (run / f"checkpoint-{state['global_step']}" / "model.safetensors").is_file()
    model, recipe = load_model(str(run))[0], load_recipe(run / "recipe.yaml")
    findings = TrainedRun(run, read_log(run), model, recipe).check()
    assert not [finding for finding in findings if finding.status == "error" or "unfinished" in finding.evidence]


@pytest.mark.slow
def test_a_resumed_run_has_the_remaining_time(tiny_recipe):
    recipe = {"max_minutes": 0.03, "logging_steps": 1, "eval_steps": 10, "warmup_steps": 2}
    recipe |= {"max_stories": 60, "max_validation_stories": 12}
    run = train(tiny_recipe(**recipe))
    first = log_of(run)
    again = log_of(train(tiny_recipe(**recipe, output_dir=run, resume_from_checkpoint="true")))
    assert again["global_step"] == first["global_step"], "nothing was left"

    earlier = min(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    assert read_log(earlier).planned == 0, "the number of steps was not known"
    resumed = train(tiny_recipe(**recipe, output_dir=run.parent / "resumed", resume_from_checkpoint=earlier))
    rates = [entry["learning_rate"] for entry in log_of(resumed)["log_history"] if "learning_rate" in entry]
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "warmup_stable_decay"])
@pytest.mark.parametrize("warmup_steps", [0.2, 10])
def test_the_schedule_follows_elapsed_time(kind, warmup_steps):
    limit = TimeLimitCallback(100)
    kwargs = {"num_decay_steps": 0.5} if kind == "warmup_stable_decay" else {}
    args = TrainingArguments(
        learning_rate=1.0, lr_scheduler_type=kind, warmup_steps=warmup_steps, lr_scheduler_kwargs=kwargs
    )
    factor = timed_lr_lambda(args, limit)
    assert factor(0) == pytest.approx(0.1 if warmup_steps == 10 else 0, abs=1e-3)
    limit.elapsed = 20
    at_fifth = factor(1000)
    limit.elapsed = 60
    assert factor(1000) <= at_fifth
    assert factor(1) == (min(0.2, factor(1000)) if warmup_steps == 10 else factor(1000))
    limit.elapsed = 250
    assert factor(1000) == pytest.approx(1.0 if kind == "constant" else 0.0)


def test_settings_that_need_a_number_of_steps_are_refused(tiny_recipe):
    with pytest.raises(UserError, match="`max_minutes` must be above 0"):
        tiny_recipe(max_minutes=0)
    with pytest.raises(UserError, match="set eval_steps to a number of steps"):
        training_arguments(tiny_recipe(max_minutes=1, eval_steps=0.5, save_steps=10))
    with pytest.raises(UserError, match="does not support the schedule polynomial"):
        training_arguments(tiny_recipe(max_minutes=1, lr_scheduler_type="polynomial"))


def test_a_stream_with_a_time_limit():
    overrides = ["--streaming", "true", "--max_minutes", "1"]
    recipe = load_recipe("configs/tinystories-24m.yaml", overrides)
    assert recipe.max_minutes == 1 and training_arguments(recipe).max_steps > 10**6
