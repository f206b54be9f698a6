"""Errors that would occur late in a run are reported before any work: one line, exit status 2, nothing written."""

import dataclasses
import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from datasets import Dataset
from helpers import TINY_RECIPE
from hub_server import LocalHub, User
from transformers.training_args import OptimizerNames

from tinystories.checks import preflight
from tinystories.checks.machine import checkpoints_at_once
from tinystories.cli import main
from tinystories.commands.train import train
from tinystories.data import corpus
from tinystories.hub import client as hub
from tinystories.recipe import build_recipe
from tinystories.runs.loading import load_tokenizer
from tinystories.training import build as training
from tinystories.training.arguments import METRICS, training_arguments
from tinystories.utils.errors import UserError


PARAMETERS = 30_368  # of the model in SHORT
SHORT = {
    **TINY_RECIPE,
    "max_stories": 60,
    "max_validation_stories": 12,
    "vocab_size": 400,
    "row_length": 256,
    "check": False,
    "model": {**TINY_RECIPE["model"], "hidden_size": 32, "intermediate_size": 48},
    "trainer": {**TINY_RECIPE["trainer"], "max_steps": 2, "eval_steps": 1, "logging_steps": 1, "use_cpu": True},
}


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SHORT), "utf-8")
    return path


@pytest.fixture
def no_work(monkeypatch):
    """Fails where the corpus is read or the tokenizer trained."""

    def work(*args, **kwargs):
        raise AssertionError("work has begun")

    monkeypatch.setattr(corpus, "recipe_corpus", work)
    monkeypatch.setattr(training, "recipe_tokenizer", work)


def lacks(*packages: str):
    installed = [package for package in packages if importlib.util.find_spec(package)]
    return pytest.mark.skipif(bool(installed), reason=f"{', '.join(installed)} is installed")


def case(arguments: str, message: str, *marks):
    return pytest.param(arguments.split(), message, marks=marks, id=arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # packages
        case("--report_to wandb", "pip install wandb", lacks("wandb")),
        case("--report_to csv,mlflow", "pip install mlflow", lacks("mlflow")),
        case("--report_to azure_ml", "pip install azureml-sdk", lacks("azureml")),
        case("--report_to nonsense", "`report_to: nonsense` is not supported: use csv, none, or one of azure_ml"),
        case("--optim lion_8bit", "bitsandbytes", lacks("bitsandbytes")),
        case("--optim schedule_free_adamw", "schedulefree", lacks("schedulefree")),
        case("--optim galore_adamw", "galore_torch", lacks("galore_torch")),
        case("--optim adamw_torch_4bit", "torchao", lacks("torchao")),
        case("--use_liger_kernel true", "`trainer.use_liger_kernel` is True, but must be false"),
        case("--deepspeed ds.json", "pip install deepspeed", lacks("deepspeed")),
        case("--debug tpu_metrics_debug", "`trainer.debug` is 'tpu_metrics_debug', but must be empty"),
        # the first evaluation
        case("--metric_for_best_model accuracy", "`trainer.metric_for_best_model` cannot be accuracy"),
        case("--prediction_loss_only true", "`trainer.prediction_loss_only` is True, but must be false"),
        case("--eval_accumulation_steps 0", "`trainer.eval_accumulation_steps` is 0, but must be at least 1"),
        case("--include_for_metrics [nonsense]", "`trainer.include_for_metrics` is ['nonsense'], but must be"),
        case("--label_names [nonsense]", "`trainer.label_names` is ['nonsense'], but must be [labels]"),
        # the first checkpoint, and the end
        case(
            "--early_stopping_patience 2 --eval_strategy no",
            "`early_stopping_patience` needs evaluations, a checkpoint at each of them, and",
        ),
        case(
            "--early_stopping_patience 2 --save_strategy no",
            "`early_stopping_patience` needs evaluations, a checkpoint at each of them, and",
        ),
        case("--load_best_model_at_end true --eval_strategy no", "load_best_model_at_end"),
        case(
            "--load_best_model_at_end true --save_strategy no",
            "load_best_model_at_end requires the save and eval strategy to match",
        ),
        case("--preset wild", "no preset 'wild'"),
        case("--push_to_hub true", "HF_HUB_OFFLINE is set"),
        # numbers
        case("--max_steps -5", "`trainer.max_steps` is -5, but must be at least 1, or -1"),
        case("--per_device_train_batch_size -2", "`trainer.per_device_train_batch_size` is -2"),
        case("--learning_rate nan", "`--learning_rate` must be float, but is 'nan'"),
        case("--warmup_steps .nan", "`trainer.warmup_steps` is nan"),
        case("--adam_epsilon -1", "`trainer.adam_epsilon` is -1.0, but must be"),
        case("--neftune_noise_alpha -5", "`trainer.neftune_noise_alpha` is -5.0"),
        case("--data_seed 99999999999999999999", "`trainer.data_seed` is 99999999999999999999"),
        case("--eval_steps .nan", "`trainer.eval_steps` is nan"),
        case("--eval_steps 0", "`trainer.eval_steps` is 0.0"),
        case(
            "--row_length 100000000",
            "fits into a row) to 8192, but is 100000000",
        ),
        case("--hidden_size 10000000", "Choose a smaller --size"),
        # schedules
        case(
            '--warmup_steps 0 --lr_scheduler_type polynomial --lr_scheduler_kwargs {"lr_end":1.0}',
            "lr_end (1.0) must be smaller",
        ),
        case(
            '--warmup_steps 0 --lr_scheduler_type polynomial --lr_scheduler_kwargs {"odd":1}',
            "unexpected keyword argument 'odd'",
        ),
        # hardware and processes
        case("--torch_compile_backend nonsense", "Invalid backend: 'nonsense'"),
        case("--torch_compile_mode nonsense", "Unrecognized mode=nonsense"),
        case("--dataloader_num_workers -1", "`trainer.dataloader_num_workers` is -1"),
        case("--dataloader_persistent_workers true", "persistent_workers option needs num_workers > 0"),
        case("--dataloader_prefetch_factor 0 --dataloader_num_workers 1", "dataloader_prefetch_factor` is 0"),
        case("--dataloader_multiprocessing_context spawn", "can only be used with multi-process loading"),
        case(
            "--dataloader_multiprocessing_context odd --dataloader_num_workers 1", "is 'odd', but must be one of fork"
        ),
        case('--activation_checkpointing true --activation_checkpointing_kwargs {"odd":true}', "arguments: odd"),
        case("--log_level nonsense", "`trainer.log_level` is 'nonsense', but must be one of"),
        case("--train_sampling_strategy nonsense", "`trainer.train_sampling_strategy` is 'nonsense'"),
        case("--parallelism_config x", "`--parallelism_config` must be ParallelismConfig or null, but is 'x'"),
        case("--accelerator_config none.json", "none.json"),
        case("--fsdp full_shard", "accelerate launch"),
        case("--hub_token hf_secret", "`trainer.hub_token` must not be in a recipe"),
        case("--learning_rate", "`--learning_rate` needs a value (float)"),
        case("--ddp_backend gloo", "accelerate launch"),
        case("--resume_from_checkpoint no/such/folder", "no/such/folder is not a checkpoint"),
    ],
)
def test_a_setting_that_would_fail_is_refused_before_any_work(
    recipe_file, no_work, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = tmp_path / "runs" / "run"
    assert main(["train", str(recipe_file), "--output_dir", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("tinystories: ") and message in error
    assert "secret" not in error
    assert not run.parent.exists()


@pytest.mark.parametrize("place", ["", "file", "file/below", "loop", "x" * 300])
def test_a_folder_that_cannot_be_written_is_refused(recipe_file, no_work, tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    run = str(tmp_path / place) if place else ""
    assert main(["train", str(recipe_file), "--output_dir", run]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_read_only_file_system_is_refused(recipe_file, no_work, tmp_path, capsys, monkeypatch):
    """On some read-only mounts, the permissions do not show it, so that only an attempt to write fails."""
    monkeypatch.setattr("os.access", lambda *_: True)

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert main(["train", str(recipe_file), "--output_dir", str(tmp_path / "new" / "run")]) == 2
    assert "Read-only file system. Choose another folder." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# Defaults that depend on other settings


def test_the_last_model_is_kept_if_evaluations_have_no_checkpoint(tmp_path, capsys):
    for overrides in (
        {"save_strategy": "epoch"},
        {"eval_strategy": "epoch", "save_strategy": "steps"},
        {"eval_steps": "2", "save_steps": "1"},
        {"eval_steps": "0.4", "save_steps": "1"},
    ):
        assert training_arguments(build_recipe(SHORT, overrides)).load_best_model_at_end is False, overrides
    run = train(build_recipe(SHORT, {"output_dir": str(tmp_path / "run"), "save_strategy": "no"}))
    assert "the final weights are kept, not the best ones" in capsys.readouterr().out
    assert (run / "model.safetensors").is_file() and not list(run.glob("checkpoint-*"))


def test_the_best_model_is_kept_if_evaluations_have_checkpoints():
    for overrides in ({}, {"eval_steps": "2", "save_steps": "4"}, {"save_strategy": "best"}, {"eval_steps": "0.5"}):
        assert training_arguments(build_recipe(SHORT, overrides)).load_best_model_at_end, overrides


def test_lower_is_better_for_every_metric():
    for metric in METRICS:
        arguments = training_arguments(build_recipe(SHORT, {"metric_for_best_model": metric}))
        assert not arguments.greater_is_better
    asked = {"metric_for_best_model": "loss", "greater_is_better": "true"}
    assert training_arguments(build_recipe(SHORT, asked)).greater_is_better


@pytest.mark.parametrize("name", ["runtime", "samples_per_second", "eval_steps_per_second"])
def test_speed_is_no_metric_of_the_best_model(name):
    with pytest.raises(UserError, match=f"cannot be {name}: the metrics are loss, bits_per_byte") as error:
        training_arguments(build_recipe(SHORT, {"metric_for_best_model": name}))
    metrics = str(error.value).partition("the metrics are")[2]
    assert "runtime" not in metrics and "per_second" not in metrics


# The dry run


@pytest.mark.parametrize("optimizer", [name.value for name in OptimizerNames])
def test_every_optimizer_trains_or_is_refused(tmp_path, optimizer):
    recipe = build_recipe(SHORT, {"output_dir": str(tmp_path / "run"), "optim": optimizer, "optimizer": "adamw"})
    try:
        arguments = training_arguments(recipe)
        preflight.dry_run(recipe, arguments)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert optimizer not in ("lion_8bit", "lomo") or importlib.util.find_spec("bitsandbytes")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimizer": "muon"},
        {"ema_decay": 0.9},
        {"article_loss_weight": 1.5},
        {"save_strategy": "best"},
        {"save_only_model": True},
        {"lr_scheduler_type": "polynomial", "warmup_steps": 0, "optimizer": "adamw"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"lr_scheduler_type": "greedy"},
        {"max_minutes": 5},
        {"max_steps": -1, "num_train_epochs": 3},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 64},
        {"eval_on_start": True, "eval_delay": 5},
        {"num_attention_heads": 4, "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
        {"tie_word_embeddings": False, "attention_dropout": 0.1},
    ],
    ids=str,
)
def test_valid_settings_pass_the_dry_run_silently(tmp_path, capfd, overrides):
    recipe = build_recipe(SHORT, {"output_dir": str(tmp_path / "run"), **{k: str(v) for k, v in overrides.items()}})
    arguments = training_arguments(recipe)
    before = dataclasses.asdict(recipe), arguments.to_json_string()
    preflight.dry_run(recipe, arguments)
    assert (dataclasses.asdict(recipe), arguments.to_json_string()) == before, "the settings of the run are left alone"
    assert "".join(capfd.readouterr()) == "" and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dry_run_changes_no_result(tmp_path, monkeypatch):
    overrides = {"max_steps": "3", "bf16": "false"}
    with_dry_run = train(build_recipe(SHORT, {**overrides, "output_dir": str(tmp_path / "with")}))
    monkeypatch.setattr(preflight, "dry_run", lambda *_: None)
    without = train(build_recipe(SHORT, {**overrides, "output_dir": str(tmp_path / "without")}))
    assert (with_dry_run / "model.safetensors").read_bytes() == (without / "model.safetensors").read_bytes()


def test_a_metric_without_validation_words_is_refused_before_the_first_step(tmp_path, monkeypatch):
    """Otherwise transformers raises a KeyError at the first evaluation."""
    stories = tmp_path / "stories"
    stories.mkdir()
    lines = [f"Cats{n} run{n} fast{n % 7}." for n in range(80)]
    (stories / "train.txt").write_text("\n<|endoftext|>\n".join(f"The {line} A dog." for line in lines), "utf-8")
    (stories / "validation.txt").write_text("\n<|endoftext|>\n".join(lines[:9]), "utf-8")
    monkeypatch.setattr(training, "StoryTrainer", lambda **_: pytest.fail("training has begun"))
    overrides = {"corpus": str(stories), "metric_for_best_model": "nats_per_token_articles"}
    with pytest.raises(UserError, match="no validation story has any articles"):
        train(build_recipe(SHORT, {**overrides, "output_dir": str(tmp_path / "run")}))


# Prompts


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("word " * 300, "tokens long, but `max_length` is 128"),
        ("<|endoftext|>", "has no tokens with this tokenizer"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_prompt_that_cannot_be_continued_is_refused_before_training(tmp_path, monkeypatch, prompt, message, place):
    """At any place in the list: the first prompt is used at each evaluation, all of them at the end."""
    prompts = ["One day", "One day"]
    prompts[place] = prompt
    monkeypatch.setattr(training, "StoryTrainer", lambda **_: pytest.fail("training has begun"))
    with pytest.raises(UserError, match=message) as error:
        train(build_recipe({**SHORT, "prompts": prompts}, {"output_dir": str(tmp_path / "run")}))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def word_level(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "<unk>": 2, "One": 3, "day": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_a_prompt_of_unknown_characters_is_refused(tmp_path):
    overrides = {"tokenizer": str(word_level(tmp_path)), "output_dir": str(tmp_path / "run")}
    for prompt, message in (("\N{CAT}", "not in the vocabulary"), ("   ", "has no tokens")):
        with pytest.raises(UserError, match=message):
            train(build_recipe({**SHORT, "prompts": [prompt]}, overrides))
    assert train(build_recipe({**SHORT, "prompts": ["One day"]}, overrides)).is_dir()


def corpus_of(tmp_path, stories):
    (tmp_path / "stories").mkdir()
    for name, part in (("train", stories[3:]), ("validation", stories[:3])):
        (tmp_path / "stories" / f"{name}.txt").write_text("\n<|endoftext|>\n".join(part), "utf-8")
    return tmp_path / "stories"


def test_without_prompts_the_openings_of_validation_stories_are_continued(tmp_path, capsys):
    stories = [f"Der kleine Bär Nummer{n} ging in den Wald.\n\nDort fand er Honig." for n in range(40)]
    stories[1] = "ein-langes-wort-" * 10
    content = {key: value for key, value in SHORT.items() if key != "prompts"}
    overrides = {"corpus": str(corpus_of(tmp_path, stories)), "output_dir": str(tmp_path / "run")}
    run = train(build_recipe(content, overrides))
    samples = [sample.partition("\n")[2] for sample in capsys.readouterr().out.split("--- story ")[1:]]
    openings = ["Der kleine Bär Nummer0 ging in", stories[1][:60], "Der kleine Bär Nummer2 ging in"]
    assert all(sample.startswith(opening) for sample, opening in zip(samples, openings, strict=True)), samples
    logged = [json.loads(line) for line in (run / "stories.jsonl").read_text("utf-8").splitlines()]
    assert {sample["prompt"] for sample in logged} == {openings[0]}
    assert yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))["prompts"] is None


def test_openings_that_the_model_cannot_continue_are_left_out(tmp_path):
    recipe, tokenizer = build_recipe({}, {"max_length": "16"}), load_tokenizer(word_level(tmp_path))
    stories = ["One day One day One day One day", "One \N{CAT} day One day One day One", "day One", "One day One day"]
    found = preflight.fitting_prompts(recipe, Dataset.from_dict({"text": stories}), tokenizer)
    assert found == ["One day One day One day"], "no unknown character, and no story that is complete"
    assert preflight.fitting_prompts(recipe, Dataset.from_dict({"text": ["day One"]}), tokenizer) == []


# Disk and Hub


def test_a_disk_too_small_for_the_checkpoints_is_refused(recipe_file, no_work, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=600_000))
    # Muon: 8 to 12 bytes of each of the PARAMETERS in a checkpoint, and 4 in the model.
    command = ["train", str(recipe_file), "--output_dir", str(tmp_path / "run"), "--max_steps", "9"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "0.6 MiB free, but 3 checkpoints and the model take" in error
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=600_000))
    assert main([*command, "--save_strategy", "no"]) == 0


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"max_steps": 9}, 3),
        ({"max_steps": 9, "save_total_limit": 1}, 2),
        ({"max_steps": 9, "save_total_limit": "null"}, 9),
        ({"max_steps": 9, "eval_steps": 5}, 2),
        ({"max_steps": 9, "save_strategy": "no"}, 0),
        ({"max_minutes": 5}, 1),
        ({"max_steps": -1, "num_train_epochs": 5}, 1),
    ],
    ids=str,
)
def test_number_of_checkpoints_on_the_disk(settings, number):
    recipe = build_recipe(SHORT, {key: str(value) for key, value in settings.items()})
    steps = None if recipe.max_minutes else recipe.trainer["max_steps"]
    assert checkpoints_at_once(training_arguments(recipe), steps)[0] == number


@pytest.mark.parametrize(
    ("settings", "bytes_per_parameter"),
    [
        ({"optimizer": "adamw"}, 16),
        ({"optimizer": "adamw", "optim": "sgd"}, 12),
        ({"optimizer": "adamw", "ema_decay": 0.9}, 20),
        ({"save_only_model": True}, 8),
    ],
    ids=str,
)
def test_disk_space_of_a_checkpoint_and_the_model(monkeypatch, settings, bytes_per_parameter):
    recipe = build_recipe(SHORT, {"max_steps": "1", **{key: str(value) for key, value in settings.items()}})
    arguments, free = training_arguments(recipe), bytes_per_parameter * PARAMETERS
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    preflight.check_resources(recipe, arguments)
    free -= 1
    with pytest.raises(UserError, match="1 checkpoint and the model take"):
        preflight.check_resources(recipe, arguments)


@pytest.fixture(scope="module")
def local_hub():
    with LocalHub() as server:
        server.users |= {"hf_ada": User("ada"), "hf_reader": User("ada", role="read"), "hf_bob": User("bob")}
        yield server


@pytest.mark.parametrize(
    ("token", "settings", "message"),
    [
        ("hf_nobody", {}, "rejected your token"),
        ("hf_reader", {}, "is read-only"),
        ("hf_ada", {"hub_model_id": "a/b/c"}, "`hub_model_id` 'a/b/c' is not a valid name"),
        (
            "hf_ada",
            {"hub_model_id": "bob/story"},
            "cannot create bob/story on the Hub: set `hub_model_id` to ada/story",
        ),
        ("hf_ada", {"hub_revision": "dev"}, "no branch dev"),
    ],
)
def test_a_push_that_the_hub_would_refuse_is_refused_before_any_work(
    recipe_file, no_work, local_hub, tmp_path, capsys, monkeypatch, token, settings, message
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HfApi", lambda token: _Api(endpoint=local_hub.url, token=token))
    options = [text for key, value in {"push_to_hub": "true", **settings}.items() for text in (f"--{key}", value)]
    assert main(["train", str(recipe_file), "--output_dir", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and token not in error
    assert not (tmp_path / "run").exists() and not local_hub.repos


def test_an_offline_push_is_refused_before_any_work(recipe_file, no_work, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    command = ["train", str(recipe_file), "--output_dir", str(tmp_path / "run"), "--push_to_hub"]
    assert main(command) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


_Api = hub.HfApi
