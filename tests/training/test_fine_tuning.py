"""Training from the weights of a model: `init_from`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, TINY_RECIPE, fails_with_one_line, tinystories
from hub_server import CLIENT, Blob, LocalHub, Repo
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.checks.prediction_offset import check_objective
from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.data.synthetic import sample_stories
from tinystories.export.base_model import load_base
from tinystories.export.stock import export_stock
from tinystories.generation.generate import eos_token_ids
from tinystories.hub.model_card import model_card
from tinystories.hub.release import public_recipe
from tinystories.recipe import build_recipe, load_recipe
from tinystories.runs.loading import load_model
from tinystories.runs.metadata import read_run_metadata
from tinystories.training.fine_tuning import complete_recipe
from tinystories.utils.errors import UserError


pytestmark = pytest.mark.usefixtures("without_dry_run")
SETTINGS = {"max_stories": 60, "max_validation_stories": 16, "row_length": 256, "prompts": []}
TRAINER = {**TINY_RECIPE["trainer"], "max_steps": 12, "learning_rate": 1e-2, "eval_steps": 4, "logging_steps": 4,
           "save_total_limit": None, "use_cpu": True}  # fmt: skip


@pytest.fixture(scope="module")
def story_file(tmp_path_factory):
    """Stories of another style: everybody shouts."""
    stories = [story.replace(".", "!").replace("the ", "the great ") for story in sample_stories(90, seed=5)]
    file = tmp_path_factory.mktemp("stories") / "shouted.txt"
    file.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return file


def recipe_for(base, corpus, folder, **given):
    content = {"corpus": str(corpus), "init_from": str(base), **SETTINGS, "trainer": TRAINER}
    return build_recipe(content, {"output_dir": str(folder), **{name: str(value) for name, value in given.items()}})


def bits(run):
    log = json.loads((Path(run) / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["eval_bits_per_byte"] for entry in log if "eval_bits_per_byte" in entry}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_starts_from_the_weights_of_a_run(tiny_run, story_file, tmp_path, optimizer):
    run = train(recipe_for(tiny_run, story_file, tmp_path / "run", optimizer=optimizer))
    evaluations = bits(run)
    assert list(evaluations) == [0, 4, 8, 12]
    assert evaluations[12] < 0.95 * evaluations[0] and evaluations[0] < 3, "a new model has 4 bits per byte"
    assert (run / "tokenizer.json").read_text() == (tiny_run / "tokenizer.json").read_text()
    config, base = (json.loads((folder / "config.json").read_text()) for folder in (run, tiny_run))
    assert config == base
    saved = load_recipe(run / "recipe.yaml")
    assert (saved.vocab_size, saved.max_length, saved.preset) == (base["vocab_size"], 128, "balanced")
    assert saved.model["hidden_size"] == 64 and saved.init_from == str(tiny_run)


def test_a_run_is_resumed_exactly_without_its_base(tiny_run, story_file, tmp_path):
    base = shutil.copytree(tiny_run, tmp_path / "base")
    whole = train(recipe_for(base, story_file, tmp_path / "whole", attention_dropout=0.1))
    run = shutil.copytree(whole, tmp_path / "run")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(run / name)
    (run / "model.safetensors").unlink()
    shutil.rmtree(base)
    # The recipe of the user again, and that of the run folder.
    train(recipe_for(base, story_file, run, attention_dropout=0.1, resume_from_checkpoint="true"))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, run))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert bits(run) == bits(whole)
    shutil.rmtree(run / "checkpoint-12")
    train(load_recipe(run / "recipe.yaml", {"resume_from_checkpoint": "true"}))
    assert all(torch.equal(weight, load_file(run / "model.safetensors")[name]) for name, weight in one.items())


def test_checkpoints_and_other_formats_are_bases(tiny_run, tmp_path):
    model, _ = load_model(str(tiny_run))
    export_stock(tiny_run, tmp_path / "stock")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = model(ids).logits
        for name in (tiny_run, tiny_run / "checkpoint-120", tmp_path / "stock"):
            base = load_base(str(name))
            assert isinstance(base.model, TinyLlamaForCausalLM) and base.model.dtype == torch.float32
            assert torch.allclose(base.model(ids).logits, expected, atol=1e-4)
    builtin = load_base("builtin")
    assert builtin.vocab_size == 4096 and builtin.model.dtype == torch.float32
    recipe = complete_recipe(build_recipe({"init_from": "builtin"}), builtin)
    assert (recipe.preset, recipe.max_length, recipe.model["num_hidden_layers"]) == ("plain", 512, 6)


@pytest.mark.slow
def test_a_missing_pad_token_gets_an_embedding(story_file, tmp_path):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(sample_stories(50), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    run = train(recipe_for(tmp_path / "base", story_file, tmp_path / "run", max_steps=2, row_length=2_048))
    model, tokenizer = load_model(str(run))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 300)
    assert model.config.vocab_size == 301 and load_recipe(run / "recipe.yaml").vocab_size == 300
    shutil.rmtree(run / "checkpoint-2")
    train(load_recipe(run / "recipe.yaml", {"overwrite_output_dir": "true"}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_size": 96}, "hidden_size is 96, not 64"),
        ({"size": "3m"}, "hidden_size is 192, not 64; intermediate_size is 512, not 128"),
        ({"vocab_size": 700}, "vocab_size is 700, not "),
        ({"partial_rotary_factor": 1.0}, "partial_rotary_factor is 1.0, not 0.5"),
        ({"max_length": 256}, "`max_length` is 256, but the context length of .* is 128 tokens: remove `max_length`"),
        ({"tokenizer": "OTHER"}, "is not that of the base model"),
        ({"zero_init_residual": True}, "`zero_init_residual` initialises a model that is trained from scratch"),
        ({"copy_init": 1}, "`copy_init` initialises"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_recipe_that_contradicts_its_base_is_refused(tiny_run, story_file, tmp_path, given, message):
    if "tokenizer" in given:
        other = AutoTokenizer.from_pretrained(tiny_run)
        other.add_tokens(["Zorg"])
        other.save_pretrained(tmp_path / "other")
        given = {"tokenizer": tmp_path / "other"}
    with pytest.raises(UserError, match=message) as refused:
        train(recipe_for(tiny_run, story_file, tmp_path / "run", **given))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_other_models_are_refused_in_one_line(tiny_run, story_file, tmp_path):
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50)).save_pretrained(tmp_path / "gpt2")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(tiny_run / "checkpoint-120", unfinished / "checkpoint-120")
    untokenized = shutil.copytree(tiny_run / "checkpoint-120", tmp_path / "untokenized")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (untokenized / name).unlink()
    small = tmp_path / "small"
    shutil.copytree(tiny_run, small, ignore=shutil.ignore_patterns("checkpoint-*"))
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.add_tokens(["Zorg"])
    tokenizer.save_pretrained(small)
    for base, message in {
        tmp_path / "gpt2": "is a gpt2; only TinyLlama, Llama and Phi-3 can be fine-tuned",
        unfinished: "has no finished model, only checkpoints",
        untokenized: "has no tokenizer",
        small: "tokens, but the model has only",
        "runs/none": "no run folder runs/none",
    }.items():
        with pytest.raises(UserError, match=message) as refused:
            train(recipe_for(base, story_file, tmp_path / "run"))
        assert "\n" not in str(refused.value)


def test_resuming_another_run_names_init_from(tiny_run, story_file, tmp_path):
    for change in ({"corpus": story_file}, {"learning_rate": 0.1}):
        given = {"output_dir": tmp_path / "run", "resume_from_checkpoint": tiny_run / "checkpoint-60", **change}
        recipe = build_recipe(TINY_RECIPE, {name: str(value) for name, value in given.items()})
        with pytest.raises(UserError, match=r"cannot change .* --init_from .*checkpoint-60"):
            train(recipe)
    recipe = build_recipe(TINY_RECIPE, {"output_dir": str(tmp_path / "run"), "resume_from_checkpoint": str(tiny_run)})
    with pytest.raises(UserError, match=r"is not a checkpoint to resume from: .* --init_from "):
        train(recipe)


def test_the_card_names_the_base(tiny_run, story_file, tmp_path):
    run = train(recipe_for(tiny_run, story_file, tmp_path / "run", max_steps=2))
    metadata = read_run_metadata(run, load_model(str(run))[0])
    card = model_card(metadata, "ada/shouted", {})
    assert f"It was fine-tuned from {tiny_run.name}, which was trained on" in " ".join(str(card).split())
    assert "from scratch" not in str(card) and card.data.base_model is None
    assert str(tiny_run.parent) not in str(card) + yaml.safe_dump(public_recipe(run))
    metadata.base = {"name": "ada/base", "hub_id": "ada/base", "corpus": None}
    card = model_card(metadata, "ada/shouted", {})
    assert card.data.base_model == "ada/base" and "fine-tuned from [ada/base](https://huggingface.co/ada/base)" in str(
        card
    )
    # A run from scratch in the same folder has no base any more.
    fresh = {**TINY_RECIPE, **SETTINGS, "trainer": {**TRAINER, "max_steps": 1}, "vocab_size": 400}
    train(build_recipe(fresh, {"output_dir": str(run), "overwrite_output_dir": "true"}))
    assert read_run_metadata(run, load_model(str(run))[0]).base == {}


def test_every_token_that_ended_a_story_still_does(tiny_run, story_file, tmp_path):
    base = shutil.copytree(tiny_run, tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint-*"))
    generation = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [0, 5]}))
    run = train(recipe_for(base, story_file, tmp_path / "run", max_steps=2))
    assert eos_token_ids(*load_model(str(run))) == [0, 5]
    assert json.loads((run / "config.json").read_text())["eos_token_id"] == 0


def test_the_command_takes_stories_and_a_model(tiny_run, story_file, tmp_path):
    options = ("--max_steps", 2, "--row_length", 256, "--max_stories", 40, "--prompts", "[]", "--disable_tqdm", "true")
    done = tinystories("finetune", story_file, "--model_name_or_path", tiny_run, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "base  " in done.stdout and "too little text" not in done.stdout
    assert load_recipe(tmp_path / "runs/finetune/recipe.yaml").init_from == str(tiny_run)
    fails_with_one_line(tinystories("train", story_file, "--init_from", tiny_run), "train finetune --corpus")
    fails_with_one_line(tinystories("train", tiny_run, "--minutes", 1), "--init_from")
    fails_with_one_line(tinystories("finetune", "quickstart", cwd=tmp_path), "zero_init_residual")


@pytest.mark.slow
def test_a_base_on_the_hub(tiny_run, story_file, tmp_path):
    files = {path.name: path.read_bytes() for path in tiny_run.iterdir() if path.is_file() and path.suffix != ".md"}
    with LocalHub() as hub:
        hub.repos["models", "ada/tiny"] = repo = Repo("ada/tiny")
        repo.commit("main", "first", {name: Blob(data, name.endswith(".safetensors")) for name, data in files.items()})
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = {**inherited, **CLIENT, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url}

        def finetune(base, folder):
            options = ("--max_steps", 2, "--row_length", 256, "--max_stories", 40, "--prompts", "[]", "--check", False)
            command = ("finetune", story_file, "--init_from", base, *options, "--output_dir", tmp_path / folder)
            return subprocess.run(
                [sys.executable, "-m", "tinystories.cli", *map(str, command)],
                env=environment, cwd=ROOT, capture_output=True, text=True,
            )  # fmt: skip

        done = finetune("ada/tiny", "run")
        assert done.returncode == 0, done.stderr[-2000:]
        fails_with_one_line(finetune("ada/none", "none"), "ada/none", "the Hub has no model of that name")
        assert not (tmp_path / "none").exists()
    run = tmp_path / "run"
    # The default learning rate is small, so two steps hardly change the weights that were downloaded.
    weights, base = (load_file(folder / "model.safetensors") for folder in (run, tiny_run))
    assert all(torch.allclose(weights[name], base[name], atol=0.02) for name in base)
    card = model_card(read_run_metadata(run, load_model(str(run))[0]), "ada/shouted", {})
    assert card.data.base_model == "ada/tiny"


def test_doctor_checks_a_recipe_with_a_base(tiny_run, story_file, tmp_path):
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump({"corpus": str(story_file), "init_from": str(tiny_run), "row_length": 256})
    )
    done = tinystories("doctor", tmp_path / "my.yaml", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predicts the next token" in done.stdout


def shifted_twice(tiny_run, out):
    """A copy of a run whose model was trained on labels that were shifted twice."""
    base = shutil.copytree(tiny_run, out, ignore=shutil.ignore_patterns("checkpoint-*"))
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(TinyLlamaConfig.from_pretrained(tiny_run))
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    stories = list(sample_stories(600, seed=1))
    for step in range(250):
        texts = [f"{story}<|endoftext|>" for story in stories[step * 8 % 592 :][:8]]
        rows = tokenizer(texts, padding=True, truncation=True, max_length=96, return_tensors="pt").input_ids
        loss = model(rows[:, :-1], labels=rows[:, 1:]).loss  # and the model shifts once more
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(base)
    return base


@pytest.mark.slow
def test_a_base_with_labels_shifted_twice_is_reported_and_repaired(tiny_run, tmp_path, capsys):
    base = shifted_twice(tiny_run, tmp_path / "base")
    stories = load_corpus("sample", max_validation_stories=40).validation["text"]
    before = check_objective(*load_model(str(base)), stories)
    assert [finding.status for finding in before] == ["error"] and "after the next one" in before[0].evidence
    recipe = recipe_for(base, "sample", tmp_path / "run", max_stories=600, max_steps=150, eval_steps=75, lr=5e-3)
    run = train(recipe)
    assert "warning: the base model" in capsys.readouterr().out
    after = {finding.check: finding for finding in check_objective(*load_model(str(run)), stories)}
    assert after["objective"].status == "ok", after["objective"]
    model = AutoModelForCausalLM.from_pretrained(run)
    assert model.config.vocab_size == TinyLlamaConfig.from_pretrained(tiny_run).vocab_size
