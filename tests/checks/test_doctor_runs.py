"""`tinystories doctor` on real runs: with a time limit, stopped early, resumed, streamed, in several processes."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import by_check

from tinystories.checks import examine
from tinystories.commands.train import train
from tinystories.data.corpus import recipe_corpus
from tinystories.recipe import load_recipe, save_recipe
from tinystories.runs.loading import load_tokenizer
from tinystories.training.build import pack_corpus


pytestmark = pytest.mark.usefixtures("without_dry_run")


def examined(folder):
    return by_check(examine(folder, quick=True, limit=60))


def state_of(folder):
    return json.loads((folder / "trainer_state.json").read_text())


def tokens_in(finding):
    return int(finding.evidence.split(" tokens")[0].split()[-1].replace(",", ""))


def counted(folder, rows):
    """The mean number of tokens in `rows` rows of the run, counted in its data."""
    recipe = dataclasses.replace(load_recipe(folder / "recipe.yaml"), streaming=False)
    packed, _ = pack_corpus(recipe_corpus(recipe), load_tokenizer(str(folder)), recipe, 42)
    return rows * packed.tokens_per_row


SMALL = {"max_stories": 200, "max_validation_stories": 12, "row_length": 256, "vocab_size": 400, "check": False}


@pytest.fixture
def recipe(tiny_recipe):
    return lambda **changes: tiny_recipe(**{**SMALL, "logging_steps": 2, "prompts": "[]", **changes})


def test_a_run_with_a_time_limit_is_counted_by_its_steps(recipe):
    run = train(recipe(max_minutes=0.03, eval_steps=10_000, warmup_steps=2))
    found, steps = examined(run), state_of(run)["global_step"]
    assert tokens_in(found["tokens seen"]) == pytest.approx(counted(run, 4 * steps), rel=0.02)
    assert found["tokens seen"].status == "note" and "counted in training" in found["tokens seen"].evidence
    length = found["training length"]
    assert length.status == "ok" and re.search(r"0\.03\d* of 0\.03 minutes", length.evidence)
    # One evaluation, at the end: no curve.
    assert found["validation curve"].status == "inconclusive" and "levelled" not in found["validation curve"].evidence
    assert found["setting: total tokens"].here == f"{tokens_in(found['tokens seen']):,}"
    assert found["setting: warm-up steps"].here == f"2 of {steps}"
    assert "error" not in {finding.status for finding in found.values()}


def test_two_evaluations_one_step_apart_are_inconclusive(recipe):
    run = train(recipe(max_steps=11, eval_steps=10))
    found = examined(run)
    assert found["validation curve"].status == "inconclusive"
    assert "the last tenth of the run" in found["validation curve"].evidence
    assert found["best checkpoint"].status == "ok"


def test_an_unfinished_run_with_a_time_limit_shows_its_elapsed_time(recipe, tmp_path):
    run = train(recipe(max_minutes=0.02, eval_steps=2, warmup_steps=2, save_total_limit=100))
    earliest = min(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    alone = tmp_path / "other" / earliest.name
    shutil.copytree(earliest, alone)
    shutil.copy(run / "recipe.yaml", alone.parent)
    found = examined(alone)["training length"]
    assert found.status == "note" and "of 0.02 minutes: the run is unfinished" in found.evidence
    of_run = examined(earliest)
    assert "a checkpoint of a run that has ended" in of_run["training length"].evidence
    steps = state_of(earliest)["global_step"]
    assert tokens_in(of_run["tokens seen"]) == pytest.approx(counted(run, 4 * steps), rel=0.02)


def test_a_run_that_was_stopped_early_is_not_unfinished(recipe):
    """With a high learning rate, validation soon stops improving."""
    settings = {"optimizer": "adamw", "learning_rate": 0.5, "warmup_steps": 0}
    run = train(recipe(max_steps=200, eval_steps=4, early_stopping_patience=2, **settings))
    state = state_of(run)
    steps = state["global_step"]
    assert steps < 200 == state["max_steps"]
    found = examined(run)
    length = found["training length"]
    assert length.status == "note" and f"{steps} of 200 steps: early stopping" in length.evidence
    assert "resume" not in length.advice
    assert tokens_in(found["tokens seen"]) == pytest.approx(counted(run, 4 * steps), rel=0.02)
    assert found["setting: warm-up steps"].here == "0 of 200"
    assert found["learning rate and recipe"].status == "ok"
    # The weights in the folder are the best ones, so later evaluations do not matter.
    assert found["best checkpoint"].status == "ok" and found["overfitting"].status != "error"


def test_a_resumed_run_counts_the_tokens_of_all_sessions(recipe, tmp_path):
    settings = {"max_steps": 8, "eval_steps": 4, "lr_scheduler_type": "constant", "logging_steps": 1}
    first = train(recipe(**settings, output_dir=tmp_path / "first"))
    second = train(
        recipe(
            **{**settings, "max_steps": 12},
            output_dir=tmp_path / "second",
            resume_from_checkpoint=first / "checkpoint-8",
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
        )
    )
    assert state_of(second)["global_step"] == 12
    found = examined(second)
    assert tokens_in(found["tokens seen"]) == pytest.approx(counted(second, 8 * 4 + 4 * 8), rel=0.05)
    assert found["training length"].status == "ok" and "12 of 12" in found["training length"].evidence
    assert json.loads((second / "run.json").read_text())["tokens_seen"] == tokens_in(found["tokens seen"])


def test_a_run_without_a_token_count_uses_run_json(recipe):
    run = train(recipe(max_steps=4, eval_steps=4))
    recorded = json.loads((run / "run.json").read_text())["tokens_seen"]
    state = state_of(run)
    (run / "trainer_state.json").write_text(json.dumps({**state, "num_input_tokens_seen": 0}))
    found = examined(run)["tokens seen"]
    assert tokens_in(found) == recorded and "run.json" in found.evidence
    # Several processes, which the check cannot detect, have trained on more.
    (run / "trainer_state.json").write_text(json.dumps({**state, "num_input_tokens_seen": 3 * recorded}))
    found = examined(run)
    assert tokens_in(found["tokens seen"]) == 3 * recorded
    assert found["setting: tokens per step"].here == f"{3 * recorded / 4:,.0f}"
    (run / "trainer_state.json").write_text(json.dumps({**state, "num_input_tokens_seen": 0}))
    (run / "run.json").unlink()
    found = examined(run)["tokens seen"]
    assert tokens_in(found) == pytest.approx(recorded, rel=0.1) and "a single process" in found.evidence


def test_a_checkpoint_of_an_older_release_is_resumed_with_an_estimate(recipe, tmp_path):
    settings = {"eval_steps": 4, "lr_scheduler_type": "constant"}
    run = train(recipe(**settings, max_steps=4))
    checkpoint = run / "checkpoint-4"
    counted_before = state_of(checkpoint)["num_input_tokens_seen"]
    assert counted_before > 0
    (checkpoint / "trainer_state.json").write_text(json.dumps({**state_of(checkpoint), "num_input_tokens_seen": 0}))
    manifest = [file for file in checkpoint.iterdir() if file.suffix == ".json" and "sha256" in file.read_text()]
    assert len(manifest) <= 1
    for file in manifest:
        file.unlink()
    resumed = train(
        recipe(**settings, max_steps=6, output_dir=tmp_path / "resumed", resume_from_checkpoint=checkpoint)
    )
    assert state_of(resumed)["num_input_tokens_seen"] == pytest.approx(counted_before * 6 / 4, rel=0.02)


def test_a_streamed_run_has_tokens_and_no_epochs(recipe):
    run = train(recipe(streaming=True, max_steps=6, eval_steps=3, gradient_accumulation_steps=2))
    found = examined(run)
    assert tokens_in(found["tokens seen"]) == pytest.approx(counted(run, 6 * 2 * 4), rel=0.05)
    assert "setting: epochs" not in found
    assert found["setting: tokens per step"].here == f"{tokens_in(found['tokens seen']) / 6:,.0f}"
    assert "error" not in {finding.status for finding in found.values()}


@pytest.mark.slow
def test_a_run_in_two_processes_counts_the_tokens_of_both(recipe, tmp_path):
    run = tmp_path / "run"
    save_recipe(recipe(max_steps=6, eval_steps=3, gradient_accumulation_steps=2, output_dir=run), tmp_path / "r.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29533"]
    done = subprocess.run(
        [*command, "-m", "tinystories", "train", str(tmp_path / "r.yaml")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = examined(run)
    assert tokens_in(found["tokens seen"]) == pytest.approx(counted(run, 6 * 4 * 2 * 2), rel=0.05)
    # Not the number of a single process.
    assert found["setting: tokens per step"].here == f"{tokens_in(found['tokens seen']) / 6:,.0f}"
