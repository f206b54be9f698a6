"""LoRA adapters: training, resuming, loading, merging and publishing."""

import json
import shutil

import pytest
import torch
from helpers import fails_with_one_line, tinystories, without_package
from safetensors.torch import load_file
from test_fine_tuning import bits, recipe_for, story_file  # noqa: F401  a fixture
from transformers import AutoModelForCausalLM

from tinystories.commands.train import train
from tinystories.export.stock import export_stock
from tinystories.hub.release import build_release
from tinystories.recipe import build_recipe
from tinystories.runs.loading import load_model, load_tokenizer
from tinystories.utils.errors import UserError


peft = pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("without_dry_run")
IDS = torch.arange(3, 40)[None]
OPTIONS = {"lora": "{r: 4}", "max_steps": 12, "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def base(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "base"
    return shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))


@pytest.fixture(scope="module")
def adapter(base, story_file, tmp_path_factory):  # noqa: F811
    return train(recipe_for(base, story_file, tmp_path_factory.mktemp("runs") / "adapter", **OPTIONS))


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_only_the_adapter_is_trained_and_saved(adapter, base):
    evaluations = bits(adapter)
    assert evaluations[12] < 0.97 * evaluations[0]
    assert not (adapter / "model.safetensors").exists() and not (adapter / "README.md").exists()
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["lora_alpha"] == 8 and len(config["target_modules"]) == 7
    assert config["base_model_name_or_path"] == str(base)
    weights = load_file(adapter / "adapter_model.safetensors")
    assert all("lora_" in name for name in weights) and len(weights) == 2 * 2 * 7


def test_it_loads_with_peft_and_with_this_package_alike(adapter, base, tmp_path):
    with_peft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model, _ = load_model(str(adapter))
    assert torch.allclose(logits(with_peft), logits(model), atol=1e-4)
    assert not torch.allclose(logits(model), logits(load_model(str(base))[0]), atol=1e-2)
    assert torch.allclose(logits(load_model(str(adapter / "checkpoint-12"))[0]), logits(model), atol=1e-5)
    done = tinystories("merge", adapter, tmp_path / "merged")
    assert done.returncode == 0, done.stderr
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), logits(model), atol=1e-5)
    assert tinystories("export", tmp_path / "merged", tmp_path / "stock").returncode == 0
    same = [tinystories("generate", folder, "Once upon a time", "--preset", "greedy", "--max-new-tokens", 20).stdout
            for folder in (adapter, tmp_path / "merged")]  # fmt: skip
    assert same[0] == same[1] and same[0].startswith("Once upon a time")


def test_it_is_resumed_exactly(adapter, base, story_file, tmp_path):  # noqa: F811
    run = shutil.copytree(adapter, tmp_path / "run")
    for step in (8, 12):
        shutil.rmtree(run / f"checkpoint-{step}")
    train(recipe_for(base, story_file, run, resume_from_checkpoint="true", **OPTIONS))
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, run))
    assert all(torch.equal(one[name], other[name]) for name in one) and bits(run) == bits(adapter)
    with pytest.raises(UserError, match="A resumed run cannot change lora"):
        train(recipe_for(base, story_file, run, resume_from_checkpoint="true", **{**OPTIONS, "lora": "{r: 2}"}))


def test_a_release_has_the_merged_model_and_the_adapter(adapter, base, tmp_path):
    release = build_release(adapter, tmp_path / "release", "ada/shouted")
    model, _ = load_model(str(adapter))
    published = AutoModelForCausalLM.from_pretrained(release.folder)
    assert torch.allclose(logits(published), logits(model), atol=1e-5)
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), release.folder / "adapter")
    assert torch.allclose(logits(again), logits(model), atol=1e-4)
    texts = "".join(file.read_text("utf-8") for file in release.folder.rglob("*.json"))
    assert str(base.parent) not in texts + (release.folder / "README.md").read_text("utf-8")
    assert "adapter/" in (release.folder / "README.md").read_text("utf-8")


def test_an_adapter_without_its_base_is_one_line(adapter, base, tmp_path):  # noqa: F811
    moved = shutil.copytree(adapter, tmp_path / "moved")
    recipe = (moved / "recipe.yaml").read_text()
    before = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    (moved / "recipe.yaml").write_text(recipe.replace(before, "/gone/base"))
    for command in (("generate", moved, "Once"), ("merge", moved, tmp_path / "out"), ("doctor", moved)):
        fails_with_one_line(tinystories(*command), "is a LoRA adapter of /gone/base, which does not exist")
    assert not (tmp_path / "out").exists()
    fails_with_one_line(tinystories("export", adapter, tmp_path / "out"), "tinystories merge")
    fails_with_one_line(tinystories("merge", tmp_path / "none", tmp_path / "out"), "There is no run folder")
    fails_with_one_line(tinystories("merge", base, tmp_path / "out"), "not a LoRA adapter but a complete model")
    with pytest.raises(UserError, match="tinystories merge"):
        train(recipe_for(adapter, "sample", tmp_path / "run"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "muon"}, "`lora` trains narrow matrices"),
        ({"ema_decay": 0.99}, "`lora` and `ema_decay` cannot be combined"),
        ({"lora": "{r: 4, target_modules: [q_proj, lm_head]}"}, "`lora` cannot train the embeddings"),
        ({"lora": "{modules_to_save: [embed_tokens]}"}, "`lora` cannot train the embeddings"),
        ({"push_to_hub": True}, "`lora` and `push_to_hub` cannot be combined"),
        ({"lora": "{rank: 4}"}, "`lora` has no field rank: use fields of peft's LoraConfig"),
        ({"lora": "{r: 4, target_modules: [nothing]}"}, "`lora` section of the recipe is invalid: .*nothing"),
        ({"lora": "{r: 0}"}, "`lora`: `r` must be an integer of at least 1, but is 0"),
        ({"lora": "{r: '8'}"}, "`lora`: `r` must be an integer of at least 1, but is '8'"),
    ],
    ids=str,
)
def test_what_does_not_go_with_lora_is_refused(base, story_file, tmp_path, given, message):  # noqa: F811
    with pytest.raises(UserError, match=message) as refused:
        train(recipe_for(base, story_file, tmp_path / "run", **{**OPTIONS, **given}))
    assert "\n" not in str(refused.value) and not list(tmp_path.glob("run/*.safetensors"))


def test_lora_needs_a_base_that_an_adapter_can_belong_to(base, story_file, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="set `init_from`, too"):
        build_recipe({"lora": {"r": 4}})
    assert export_stock(base, tmp_path / "phi3").architecture == "Phi3ForCausalLM"
    with pytest.raises(UserError, match="tinystories import"):
        train(recipe_for(tmp_path / "phi3", story_file, tmp_path / "run", **OPTIONS))


def test_without_peft_the_command_to_install_it_is_named(adapter, monkeypatch):
    without_package(monkeypatch, "peft")
    with pytest.raises(UserError, match=r"LoRA needs the package peft: pip install '\.\[peft\]'"):
        load_model(str(adapter))
    assert load_tokenizer(adapter).eos_token_id == 0
