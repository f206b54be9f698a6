import re
from pathlib import Path

import pytest

from tinystories.errors import UserError
from tinystories.recipe import build_recipe, load_recipe, parse_overrides, save_recipe
from tinystories.training import training_arguments


FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("race/*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_that_comes_along_is_valid_and_commented(path):
    recipe = load_recipe(path)
    training_arguments(recipe)
    for line in path.read_text().splitlines():
        if re.match(r"\s*[a-z_]+:", line):
            assert re.search(r"#\s*\S", line), f"{path.name}: no comment on `{line.strip()}`"


def test_the_full_recipe_is_the_24_million_model(tmp_path):
    from modeling_tinyllama import TinyLlamaForCausalLM
    from tinystories.training import model_config

    class TenThousand:
        bos_token_id, eos_token_id, pad_token_id = 0, 0, 1

        def __len__(self):
            return recipe.vocab_size

    recipe = load_recipe(Path(__file__).parent.parent / "configs" / "tinystories-24m.yaml")
    assert TinyLlamaForCausalLM(model_config(recipe, TenThousand())).num_parameters() == 24_557_120
    arguments = training_arguments(recipe)
    assert recipe.corpus == "roneneldan/TinyStories" and recipe.max_length == 512
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 256
    assert arguments.num_train_epochs == 5 and arguments.learning_rate == 5e-4 and arguments.weight_decay == 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"corpsu": "x"}, r"no setting `corpsu`; the nearest is `corpus`"),
        ({"model": {"hidden_dim": 8}}, r"section `model`.*`hidden_dim`; the nearest is `hidden_size`"),
        ({"trainer": {"learning_rat": 1}}, r"section `trainer`.*the nearest is `learning_rate`"),
        ({"trainer": {"learning_rate": "fast"}}, r"`trainer.learning_rate` must be a number, but is 'fast'"),
        ({"max_length": "long"}, r"`max_length` must be a whole number"),
        ({"max_length": True}, r"`max_length` must be a whole number"),
        ({"vocab_size": None}, r"`vocab_size` needs a value"),
        ({"model": {"vocab_size": 9}}, r"`vocab_size` follows from the tokenizer"),
        ({"model": 3}, r"`model` is a section"),
        ({"max_length": 4}, r"`max_length` \(4\) must be at least 16"),
        ({"max_length": 64, "row_length": 32}, r"`row_length` \(32\) must be at least `max_length` \(64\)"),
        ({"optimizer": "sgd"}, r"`optimizer` must be adamw or muon, but is 'sgd'"),
        ({"num_proc": 0}, r"`num_proc` \(0\) must be at least 1"),
        ([1, 2], r"must hold `key: value` lines"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(content, message):
    with pytest.raises(UserError, match=message):
        build_recipe(content)


def test_values_are_what_they_look_like(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "max_length: '128'\ntrainer: {learning_rate: 5e-4, max_steps: 1e3, eval_strategy: no, weight_decay: 0}"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml", ["--save_strategy", "no", "--max_grad_norm", "1"])
    assert recipe.max_length == 128
    assert recipe.trainer == {
        "learning_rate": 5e-4,
        "max_steps": 1000,
        "eval_strategy": "no",
        "weight_decay": 0.0,
        "save_strategy": "no",
        "max_grad_norm": 1.0,
    }


def test_the_command_line_overrides_keys_of_every_section():
    arguments = "--corpus=a.txt --learning-rate 1e-3 --hidden_size 64 --model.num_hidden_layers 2 --torch_compile"
    recipe = build_recipe(
        {"corpus": "sample", "trainer": {"learning_rate": 1.0}}, parse_overrides([*arguments.split(), "--seed", "7"])
    )
    assert recipe.corpus == "a.txt"
    assert recipe.trainer == {"learning_rate": 1e-3, "torch_compile": True, "seed": 7}
    assert recipe.model == {"hidden_size": 64, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], "nearest is `learning_rate`"),
        (["fast"], "Cannot place 'fast'"),
        (["--trainer.hidden_size", "1"], "no setting `hidden_size`"),
        (["--trainr.seed", "1"], "no section `trainr`"),
        (["--seed", "abc"], "`--seed` must be a whole number"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        build_recipe({}, parse_overrides(arguments))


def test_files_that_are_no_recipe_are_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: 2")
    for path, message in (("broken.yaml", "line 2 is not YAML"), ("none.yaml", "no recipe"), (".", "is a folder")):
        with pytest.raises(UserError, match=message):
            load_recipe(tmp_path / path)


def test_a_saved_recipe_reads_back_the_same(tmp_path):
    recipe = build_recipe({"corpus": "x.txt", "prompts": ["Ünder"], "trainer": {"learning_rate": 1e-5}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
