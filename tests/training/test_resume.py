"""A run that is stopped at any step and resumed has the same result as an uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TINY_RECIPE
from safetensors.torch import load_file

from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.recipe import build_recipe
from tinystories.runs import checkpoints
from tinystories.training.trainer import StoryTrainer
from tinystories.utils.errors import UserError


pytestmark = pytest.mark.usefixtures("without_dry_run")
ROOT = Path(__file__).parents[2]
# 17 steps an epoch, a checkpoint each 9.
SHORT = {
    "max_stories": 60,
    "max_validation_stories": 16,
    "vocab_size": 400,
    "row_length": 256,
    "prompts": [],
    "check": False,
    "model": {**TINY_RECIPE["model"], "hidden_size": 32, "intermediate_size": 48, "attention_dropout": 0.1},
    "trainer": {
        **TINY_RECIPE["trainer"],
        "max_steps": 44,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "eval_steps": 9,
        "save_steps": 9,
        "logging_steps": 4,
        "save_total_limit": None,
        "use_cpu": True,
    },
}


class Stopped(BaseException):
    """Simulates a killed process: no code catches it."""


def recipe_for(folder, **overrides):
    own = {"output_dir": str(folder), **overrides}
    return build_recipe({**TINY_RECIPE, **SHORT}, {key: str(value) for key, value in own.items()})


@pytest.fixture
def stop_at(monkeypatch):
    """A function that raises `Stopped` in the forward pass after `step` complete steps."""
    training_step = StoryTrainer.training_step

    def stop(step):
        def dying(self, *args, **kwargs):
            if self.state.global_step == step:
                raise Stopped
            return training_step(self, *args, **kwargs)

        monkeypatch.setattr(StoryTrainer, "training_step", dying if step is not None else training_step)

    return stop


@pytest.fixture
def resumed(stop_at):
    """A function that trains until it is stopped after `step` steps, resumes, and returns the run folder."""

    def train_in_two_parts(folder, step, **options) -> Path:
        stop_at(step)
        with pytest.raises(Stopped):
            train(recipe_for(folder, **options))
        stop_at(None)
        return train(recipe_for(folder, resume_from_checkpoint="true", **options))

    return train_in_two_parts


@pytest.fixture
def rows_read(monkeypatch):
    """The numbers of the rows that are fetched for training, in their order."""
    from tinystories.data.packing import PackedStories

    read, fetch = [], PackedStories.__getitems__

    def recording(self, rows):
        if len(self) > 60:  # not the 42 validation rows
            read.extend(rows)
        return fetch(self, rows)

    monkeypatch.setattr(PackedStories, "__getitems__", recording)
    return read


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "model.safetensors")


def differing(one, other) -> list[str]:
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(recipe_for(tmp_path_factory.mktemp("runs") / "whole"))


def test_checkpoints_are_within_epochs(uninterrupted):
    log = json.loads((uninterrupted / "trainer_state.json").read_text())["log_history"]
    epochs = {entry["step"]: entry["epoch"] for entry in log}
    assert all(0.05 < epochs[step] % 1 < 0.95 for step in (9, 18, 36)) and max(epochs.values()) > 2


@pytest.mark.parametrize("step", [9, 36])
def test_resuming_from_each_checkpoint_gives_the_same_weights(uninterrupted, tmp_path, rows_read, step):
    run = copy_until(uninterrupted, tmp_path / "run", step)
    train(recipe_for(run, resume_from_checkpoint="true"))
    assert differing(run, uninterrupted) == []
    # The rows of the remaining steps and at most three batches ahead: nothing that was trained on before.
    remaining = (44 - step) * 2 * 3
    assert remaining - 6 <= len(rows_read) <= remaining + 6
    assert log_without_times(run) == log_without_times(uninterrupted)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path, resumed):
    run = resumed(tmp_path / "run", 20)
    assert differing(run, uninterrupted) == []
    assert log_without_times(run) == log_without_times(uninterrupted)


def copy_until(run, folder, step) -> Path:
    """A copy of a run as if it had been stopped after the checkpoint of `step`."""
    shutil.copytree(run, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    for name in ("model.safetensors", "trainer_state.json"):
        (folder / name).unlink()
    return folder


def log_without_times(run) -> list:
    log = json.loads((Path(run) / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "eval_bits_per_byte" in entry]
    return [(entry["step"], entry["eval_bits_per_byte"]) for entry in steps]


def test_a_checkpoint_at_the_very_end_of_an_epoch(tmp_path, resumed):
    one_epoch = {"save_strategy": "epoch", "eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}
    whole = train(recipe_for(tmp_path / "whole", **one_epoch))
    first = min(int(folder.name.split("-")[1]) for folder in whole.glob("checkpoint-*"))
    run = resumed(tmp_path / "run", first + 2, **one_epoch)
    assert differing(run, whole) == []


@pytest.mark.slow
def test_resuming_with_ema_and_early_stopping(tmp_path, resumed):
    options = {"ema_decay": 0.9, "early_stopping_patience": 3, "optimizer": "adamw", "max_steps": 22}
    whole = train(recipe_for(tmp_path / "whole", **options))
    run = resumed(tmp_path / "run", 20, **options)
    assert differing(run, whole) == []
    state = json.loads((run / "trainer_state.json").read_text())
    assert "EarlyStoppingCallback" in state["stateful_callbacks"]


@pytest.mark.slow
def test_names_are_those_of_the_epoch_after_resuming(tmp_path, resumed):
    """17 steps are an epoch, and the last checkpoint is that of step 18. accelerate, when it skips batches, leaves out
    the epoch of the dataset."""
    options = {"rename_characters": True, "max_steps": 26}
    whole = train(recipe_for(tmp_path / "whole", **options))
    run = resumed(tmp_path / "run", 20, **options)
    assert differing(run, whole) == []


def test_another_seed_gives_other_weights(uninterrupted, tmp_path, stop_at):
    """Control: otherwise the comparisons above would prove nothing."""
    stop_at(9)
    with pytest.raises(Stopped):
        train(recipe_for(tmp_path / "run", seed=7))
    assert differing(tmp_path / "run" / "checkpoint-9", uninterrupted / "checkpoint-9")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.37])
def test_resuming_after_sigkill(uninterrupted, tmp_path, delay):
    """SIGKILL at an arbitrary moment after the second checkpoint begins to appear."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump({**TINY_RECIPE, **SHORT}))
    command = [sys.executable, str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "checkpoint-18").exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "model.safetensors").exists(), "it was killed before it ended"
    train(recipe_for(run, resume_from_checkpoint="true"))
    assert differing(run, uninterrupted) == []


# A stream


@pytest.fixture
def stream_folder(tmp_path):
    corpus = load_corpus("sample", max_stories=300, max_validation_stories=16)
    folder = tmp_path / "stories"
    folder.mkdir()
    corpus.train.to_json(folder / "train.jsonl")
    corpus.validation.to_json(folder / "validation.jsonl")
    return folder


def test_a_resumed_stream(stream_folder, tmp_path, stop_at, monkeypatch):
    from tinystories.data import streaming

    monkeypatch.setattr(streaming.PackedStream.__init__, "__kwdefaults__", {
        **streaming.PackedStream.__init__.__kwdefaults__, "block_stories": 25,
    })  # fmt: skip
    read = []
    encode_stories = streaming.encode_stories
    monkeypatch.setattr(
        streaming,
        "encode_stories",
        lambda tokenizer: lambda batch: read.append(len(batch["text"])) or encode_stories(tokenizer)(batch),
    )
    options = {"streaming": True, "corpus": stream_folder, "max_stories": 10_000, "max_steps": 30}
    whole = train(recipe_for(tmp_path / "whole", **options))
    stop_at(28)
    with pytest.raises(Stopped):
        train(recipe_for(tmp_path / "run", **options))
    stop_at(None)
    in_all = sum(read) // 2
    read.clear()
    train(recipe_for(tmp_path / "run", resume_from_checkpoint="true", **options))
    assert differing(tmp_path / "run", whole) == []
    assert sum(read) < 0.6 * in_all, "what was trained on before is not read again"


def test_a_stream_needs_a_limit_and_a_checkpoint_of_a_stream(stream_folder, tmp_path):
    with pytest.raises(UserError, match="`streaming` needs `max_steps` or `max_minutes`"):
        recipe_for(tmp_path / "run", streaming=True, max_steps=-1)
    run = train(recipe_for(tmp_path / "run", max_steps=9))
    with pytest.raises(UserError, match="streaming: true"):
        train(recipe_for(run, streaming=True, resume_from_checkpoint="true"))


# Incomplete checkpoints


@pytest.fixture
def stopped_run(uninterrupted, tmp_path):
    """A finished run, as if it had been stopped after its last checkpoint."""
    run = tmp_path / "stopped"
    shutil.copytree(uninterrupted, run)
    assert {folder.name for folder in run.glob("checkpoint-*")} >= {"checkpoint-36", "checkpoint-44"}
    return run


def damage_truncate(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip_a_bit(checkpoint):
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def damage_crash_before_the_end(checkpoint):
    (checkpoint / "checkpoint.json").unlink()
    (checkpoint / "trainer_state.json").unlink()


def damage_optimizer_of_a_foreign_checkpoint(checkpoint):
    (checkpoint / "checkpoint.json").unlink()
    path = checkpoint / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1000])


def damage_missing_rng(checkpoint):
    (checkpoint / "rng_state.pth").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_flip_a_bit,
        damage_crash_before_the_end,
        damage_optimizer_of_a_foreign_checkpoint,
        damage_missing_rng,
    ],
)
def test_the_last_complete_checkpoint_is_found(stopped_run, damage):
    damage(stopped_run / "checkpoint-44")
    checkpoint, incomplete = checkpoints.last_complete_checkpoint(stopped_run)
    assert checkpoint == stopped_run / "checkpoint-36"
    assert list(incomplete) == [stopped_run / "checkpoint-44"]
    assert checkpoints.incomplete_reason(checkpoint) is None


def test_a_checkpoint_without_a_manifest_can_be_complete(stopped_run):
    (stopped_run / "checkpoint-44" / "checkpoint.json").unlink()
    assert checkpoints.last_complete_checkpoint(stopped_run)[0] == stopped_run / "checkpoint-44"


def test_resuming_past_a_broken_checkpoint(stopped_run, uninterrupted, capsys):
    damage_truncate(stopped_run / "checkpoint-44")
    train(recipe_for(stopped_run, resume_from_checkpoint="true"))
    assert "checkpoint-44 cannot be used: model.safetensors has" in capsys.readouterr().out
    assert differing(stopped_run, uninterrupted) == []
    assert checkpoints.incomplete_reason(stopped_run / "checkpoint-44") is None


def test_without_a_complete_checkpoint_the_error_is_one_line(stopped_run):
    for folder in stopped_run.glob("checkpoint-*"):
        damage_crash_before_the_end(folder)
    with pytest.raises(UserError, match="no checkpoint to resume from.*checkpoint-44 cannot be used") as error:
        train(recipe_for(stopped_run, resume_from_checkpoint="true"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="checkpoint-36 is not a checkpoint.*no trainer_state.json"):
        train(recipe_for(stopped_run, resume_from_checkpoint=stopped_run / "checkpoint-36"))


def test_another_model_is_refused_before_anything_is_written(stopped_run):
    before = (stopped_run / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="`num_hidden_layers` is 2 in .*, but 3 in the recipe"):
        train(recipe_for(stopped_run, resume_from_checkpoint="true", num_hidden_layers=3))
    assert (stopped_run / "recipe.yaml").read_text() == before


def test_other_settings_are_reported(stopped_run, capsys):
    damage_truncate(stopped_run / "checkpoint-44")
    train(recipe_for(stopped_run, resume_from_checkpoint="true", max_grad_norm=0.5))
    assert "uninterrupted run: max_grad_norm" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{"weight_decay": 0.0}, {"optimizer": "adamw"}, {"ema_decay": 0.9}, {"corpus": "x"}]
)
def test_changes_to_what_a_resumed_run_keeps_are_refused(stopped_run, change):
    before = (stopped_run / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=f"A resumed run cannot change {next(iter(change))}"):
        train(recipe_for(stopped_run, resume_from_checkpoint="true", **change))
    assert (stopped_run / "recipe.yaml").read_text() == before


def test_a_run_resumed_at_its_end_stays_the_same(stopped_run, uninterrupted):
    train(recipe_for(stopped_run, resume_from_checkpoint="true"))
    assert differing(stopped_run, uninterrupted) == []
    assert json.loads((stopped_run / "trainer_state.json").read_text())["global_step"] == 44


def test_a_model_whose_checkpoints_are_gone_is_not_overwritten(stopped_run):
    for folder in stopped_run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        train(recipe_for(stopped_run))


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    """One file is replaced by /dev/full, to which writing fails as on a full disk."""
    run = tmp_path / "run"
    save = StoryTrainer._save_checkpoint

    def save_on_a_full_disk(self, *args):
        if self.state.global_step == 18:
            (run / "checkpoint-18").mkdir()
            (run / "checkpoint-18" / "optimizer.pt").symlink_to("/dev/full")
        return save(self, *args)

    monkeypatch.setattr(StoryTrainer, "_save_checkpoint", save_on_a_full_disk)
    with pytest.raises(
        UserError, match="disk is full.*checkpoint-9: resume from it with --resume_from_checkpoint"
    ) as error:
        train(recipe_for(run))
    assert "\n" not in str(error.value)
    assert not (run / "checkpoint-18").exists()
    assert checkpoints.last_complete_checkpoint(run)[0] == run / "checkpoint-9"


def test_the_newest_and_the_best_are_kept(tmp_path):
    for order, step in enumerate((8, 16, 4, 12)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "checkpoint.json").write_text("{}")
        os.utime(folder / "checkpoint.json", ns=(order, order))
    checkpoints.delete_oldest(tmp_path, 2, keep={tmp_path / "checkpoint-12", tmp_path / "checkpoint-8"})
    assert {folder.name for folder in tmp_path.iterdir()} == {"checkpoint-8", "checkpoint-4", "checkpoint-12"}
