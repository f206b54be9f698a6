import configparser
import re
from pathlib import Path

import pytest

from tinystories.recipe import (
    ALIASES,
    build_recipe,
    known_keys,
    load_recipe,
    parse_overrides,
    recipe_names,
    recipe_path,
    recipe_reference,
    recipe_summary,
    save_recipe,
)
from tinystories.training.arguments import training_arguments
from tinystories.utils.errors import UserError


FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("race/*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_commented(path):
    recipe = load_recipe(path)
    training_arguments(recipe)
    for line in path.read_text().splitlines():
        if re.match(r"\s*[a-z_]+:", line):
            assert re.search(r"#\s*\S", line), f"{path.name}: no comment on `{line.strip()}`"


def test_every_config_is_installed_and_has_a_name_and_a_summary():
    assert recipe_names() == ["finetune", "quickstart", "race/5", "race/20", "race/60", "small-corpus",
                              "tinystories-3m", "tinystories-24m"]  # fmt: skip
    assert {recipe_path(name) for name in recipe_names()} == set(CONFIGS)
    for name in recipe_names():
        assert load_recipe(name) == load_recipe(recipe_path(name))
        assert re.fullmatch(r"[A-Z].{30,110}\.", recipe_summary(name)), name
    setup = configparser.ConfigParser()
    setup.read(FOLDER.parent / "setup.cfg", encoding="utf-8")
    patterns = setup["options.package_data"]["tinystories.configs"].split(", ")
    installed = {path for pattern in patterns for path in FOLDER.glob(pattern)}
    assert installed == {path for path in FOLDER.rglob("*") if path.is_file()}


def test_a_file_comes_before_an_installed_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert recipe_path("quickstart") == FOLDER / "quickstart.yaml"
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "5").write_text("max_length: 99")
    assert load_recipe("race/5").max_length == 99


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "There is no recipe quickstrat; did you mean quickstart?"),
        ("configs/quickstart.yaml", "There is no recipe configs/quickstart.yaml; did you mean quickstart?"),
        ("QUICKSTRT", "did you mean quickstart?"),
        ("race/6", "did you mean race/60 or race/5 or race/20"),
        ("tinystories-33m", "did you mean tinystories-3m or tinystories-24m"),
        ("gpt", "the installed recipes are finetune, quickstart, race/5, .* tinystories-24m"),
        ("accelerate/ddp", "the installed recipes are"),
        ("../setup", "the installed recipes are"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_recipe(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "# a comment\n", "{}", "model:\ntrainer: {}\n"])
def test_a_recipe_without_settings_is_refused(content, tmp_path):
    (tmp_path / "my.yaml").write_text(content)
    with pytest.raises(UserError, match="my.yaml has no settings: `tinystories recipes show NAME > my.yaml`") as error:
        load_recipe(tmp_path / "my.yaml", {"max_steps": "3"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_may_have_a_byte_order_mark(encoding, tmp_path):
    """`tinystories recipes show quickstart > my.yaml` writes UTF-16 in Windows PowerShell."""
    text = recipe_path("quickstart").read_text()
    (tmp_path / "my.yaml").write_text(text, encoding=encoding)
    assert load_recipe(tmp_path / "my.yaml") == load_recipe("quickstart")
    assert text.isascii()


def test_the_full_recipe_is_the_24_million_model(tmp_path):
    from modeling_tinyllama import TinyLlamaForCausalLM
    from tinystories.training.build import model_config

    class TenThousand:
        bos_token_id, eos_token_id, pad_token_id = 0, 0, 1

        def get_vocab(self):
            return {str(index): index for index in range(recipe.vocab_size)}

    recipe = load_recipe(Path(__file__).parent.parent / "configs" / "tinystories-24m.yaml")
    assert TinyLlamaForCausalLM(model_config(recipe, TenThousand())).num_parameters() == 24_557_120
    arguments = training_arguments(recipe)
    assert recipe.corpus == "roneneldan/TinyStories" and recipe.max_length == 512
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 256
    assert arguments.num_train_epochs == 5 and arguments.learning_rate == 5e-4 and arguments.weight_decay == 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"corpsu": "x"}, r"no setting `corpsu`; did you mean `corpus`"),
        ({"model": {"hidden_dim": 8}}, r"section `model`.*`hidden_dim`; did you mean `hidden_size`"),
        ({"trainer": {"learning_rat": 1}}, r"section `trainer`.*did you mean `learning_rate`"),
        ({"trainer": {"learning_rate": "fast"}}, r"`trainer.learning_rate` must be float, but is 'fast'"),
        ({"max_length": "long"}, r"`max_length` must be int, but is 'long'"),
        ({"max_length": True}, r"`max_length` must be int, but is True"),
        ({"vocab_size": None}, r"`vocab_size` needs a value"),
        ({"model": {"vocab_size": 9}}, r"`vocab_size` cannot be set: it follows from"),
        ({"model": 3}, r"`model` is a section"),
        ({"max_length": 4}, r"`max_length` must be at least 16 tokens, but is 4;"),
        ({"max_length": 64, "row_length": 32}, r"`row_length` must be from 64 \(`max_length`.* to 4096, but is 32"),
        ({"optimizer": "sgd"}, r"`optimizer` must be adamw or muon, but is 'sgd'"),
        ({"num_proc": 0}, r"`num_proc` must be at least 1, but is 0"),
        *(({"copy_init": value}, "`copy_init` must be above 0 and at most 10") for value in (0.0, -1.0, float("nan"))),
        ({"vocab_size": 259}, r"`vocab_size` must be at least 260, but is 259"),
        (
            {"row_length": 100_000_000},
            r"`row_length` must be from 512 \(`max_length`.* to 32768, but is 100000000",
        ),
        ({"prompts": [1, 2]}, r"`prompts` must be list of str or null, but is \[1, 2\]"),
        ({"trainer": {"bf16": "sometimes"}}, "`trainer.bf16` must be bool or auto, but is 'sometimes'"),
        ({"prompts": ["\ud83d"]}, r"'\\ud83d'\] contains an unpaired surrogate"),
        ([1, 2], r"must contain `key: value` lines"),
    ],
)
def test_mistakes_in_a_recipe_are_reported(content, message):
    with pytest.raises(UserError, match=message):
        build_recipe(content)


def test_values_are_converted_to_the_type_of_their_key(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "max_length: '128'\ntrainer: {learning_rate: 5e-4, max_steps: 1e3, eval_strategy: no, weight_decay: 0, "
        "lr_scheduler_kwargs: {min_lr: 1e-5}, bf16: auto, report_to: [csv, tensorboard], metric_for_best_model: null}"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml", ["--save_strategy", "no", "--max_grad_norm", "1"])
    assert recipe.max_length == 128
    assert recipe.trainer == {
        "learning_rate": 5e-4,
        "max_steps": 1000,
        "eval_strategy": "no",
        "weight_decay": 0.0,
        "lr_scheduler_kwargs": {"min_lr": 1e-5},
        "bf16": "auto",
        "report_to": ["csv", "tensorboard"],
        "metric_for_best_model": None,
        "save_strategy": "no",
        "max_grad_norm": 1.0,
    }


def test_overrides_from_python():
    overrides = {"max_steps": 7, "lr": 1e-3, "model.hidden_size": 64, "prompts": ["One day,"], "bf16": False}
    recipe = load_recipe("quickstart", overrides)
    assert recipe.prompts == ["One day,"] and recipe.model["hidden_size"] == 64
    assert (recipe.trainer["max_steps"], recipe.trainer["learning_rate"], recipe.trainer["bf16"]) == (7, 1e-3, False)
    assert load_recipe("quickstart", {}) == load_recipe("quickstart")
    with pytest.raises(UserError, match="did you mean `max_steps`"):
        load_recipe("quickstart", {"max_step": 7})


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
        (["--learning_rat", "1"], "did you mean `learning_rate`"),
        (["fast"], "Unexpected argument 'fast'"),
        (["--trainer.hidden_size", "1"], "`hidden_size` belongs to the section `model`"),
        (["--trainr.seed", "1"], "no section `trainr`"),
        (["--seed", "abc"], "`--seed` must be int, but is 'abc'"),
        (["--lora", "8"], "`--lora` must be dict or null, such as '{key: value}', but is '8'"),
        (["--add_tokens", "Zorga"], "`--add_tokens` must be list of str or null, such as '.a, b.', but is 'Zorga'"),
        (["--xyzzy", "1"], "`tinystories train --help` lists the keys of a recipe"),
    ],
)
def test_mistakes_on_the_command_line_are_reported(arguments, message):
    with pytest.raises(UserError, match=message):
        build_recipe({}, parse_overrides(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--lr", "1e-3"], {"learning_rate": 1e-3}),
        (["--batch_size", "4"], {"per_device_train_batch_size": 4}),
        (["--batch-size=4"], {"per_device_train_batch_size": 4}),
        (["--batch", "4"], {"per_device_train_batch_size": 4}),
        (["--epochs", "2"], {"num_train_epochs": 2.0}),
        (["--warmup_ratio", "0.1"], {"warmup_steps": 0.1}),
        (["--trainer.lr", "1"], {"learning_rate": 1.0}),
        (["--lr", "1", "--learning_rate", "2"], {"learning_rate": 2.0}),
    ],
)
def test_aliases(arguments, expected):
    assert build_recipe({}, parse_overrides(arguments)).trainer == expected


def test_every_alias_names_a_key_and_hides_none():
    known = {name for _, name in known_keys()}
    for alias, name in ALIASES.items():
        assert alias not in known and name in known, alias


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"learning_rte": 1e-3},
            "there is no setting `learning_rte`; did you mean `learning_rate` in section `trainer`",
        ),
        (
            {"trainer": {"max_lenght": 256}},
            "there is no setting `max_lenght`; did you mean `max_length` at the top level",
        ),
        ({"trainer": {"learning_rte": 1e-3}}, "did you mean `learning_rate`[?]"),
        ({"trainer": {"xyzzy": 1}}, "the keys of this section are the fields of `TrainingArguments`"),
        ({"model": {"xyzzy": 1}}, "the keys of this section are the fields of `TinyLlamaConfig`"),
    ],
)
def test_a_mistyped_key_of_a_file_is_looked_up_in_all_sections(content, message):
    with pytest.raises(UserError, match=message):
        build_recipe(content)


def test_aliases_in_a_file():
    assert build_recipe({"trainer": {"lr": 1e-3}, "dataset": "x.txt"}).trainer == {"learning_rate": 1e-3}
    with pytest.raises(UserError, match="`learning_rate` is set twice"):
        build_recipe({"trainer": {"lr": 1e-3, "learning_rate": 1e-3}})
    with pytest.raises(UserError, match="`learning_rate` belongs to the section `trainer`"):
        build_recipe({"lr": 1e-3})
    with pytest.raises(UserError, match="section `model`: `corpus` belongs to the top level"):
        build_recipe({"model": {"corpus": "x"}})


@pytest.mark.parametrize("size", ["24m", "24M", "24", " 24 M", 24])
def test_a_size_may_be_written_in_several_ways(size):
    recipe = build_recipe({"size": size})
    assert recipe.size == "24m" and recipe.model["hidden_size"] == 448
    assert build_recipe({}, {"size": str(size)}) == recipe


@pytest.mark.parametrize("size", ["tiny", "25", "24mm", "m", "2.4"])
def test_an_unknown_size_is_refused(size):
    with pytest.raises(UserError, match=f"no `size` {size}; the sizes are 1m"):
        build_recipe({}, {"size": size})


@pytest.mark.parametrize("key", ["nonsense", "dtype", "gpus", "pretraining_tp"])
def test_a_name_without_a_similar_one_gets_no_suggestion(key):
    with pytest.raises(UserError, match=f"no setting `{key}`") as error:
        build_recipe({}, {key: "1"})
    assert "did you mean" not in str(error.value)


def test_the_command_line_replaces_a_length_or_optimizer_of_the_file():
    """Otherwise it would be ignored: in transformers, a number of steps takes precedence over epochs."""
    content = {"optimizer": "muon", "max_minutes": 5, "trainer": {"max_steps": 9}}
    recipe = build_recipe(content, {"num_train_epochs": "2"})
    assert recipe.max_minutes is None and recipe.trainer == {"num_train_epochs": 2.0}
    recipe = build_recipe(content, {"max_steps": "2"})
    assert recipe.max_minutes is None and recipe.trainer == {"max_steps": 2}
    recipe = build_recipe(content, {"optim": "sgd"})
    assert recipe.optimizer == "adamw" and recipe.trainer["optim"] == "sgd"
    assert build_recipe(content, {"max_minutes": "7"}).max_minutes == 7
    with pytest.raises(UserError, match=r"remove `optim` \(sgd\)"):
        build_recipe({"optimizer": "muon", "trainer": {"optim": "sgd"}})


def test_files_that_are_not_recipes_are_refused(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: 2")
    (tmp_path / "latin1.yaml").write_bytes("prompts: [Ünder]".encode("latin-1"))
    for path, message in (
        ("broken.yaml", "line 2 is not valid YAML"),
        ("latin1.yaml", "latin1.yaml cannot be read: unacceptable character #x00dc"),
        ("none.yaml", "no recipe"),
        (".", "is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            load_recipe(tmp_path / path)


def test_a_saved_recipe_reads_back_the_same(tmp_path):
    recipe = build_recipe({"corpus": "x.txt", "prompts": ["Ünder"], "trainer": {"learning_rate": 1e-5}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_the_number_of_stories_for_the_tokenizer():
    assert build_recipe({}).tokenizer_stories == 100_000
    for given, expected in (("all", "all"), (5, 5), ("7000", 7_000), ("1e4", 10_000)):
        assert build_recipe({"tokenizer_stories": given}).tokenizer_stories == expected
        assert build_recipe({}, {"tokenizer_stories": str(given)}).tokenizer_stories == expected
    for wrong in (0, -5):
        with pytest.raises(UserError, match="`tokenizer_stories` must be at least 1"):
            build_recipe({"tokenizer_stories": wrong})
    for wrong in ("most", 0.5, None):
        with pytest.raises(UserError, match="`tokenizer_stories`.* (must be|needs a value).*int or all"):
            build_recipe({"tokenizer_stories": wrong})


def test_every_key_has_a_type_a_default_and_a_help_text():
    reference = {key.name: key for key in recipe_reference()}
    assert reference["max_minutes"][1:3] == ("float or null", None) and "elapsed time" in reference["max_minutes"].help
    assert reference["prompts"].type == "list of str or null" and reference["optimizer"].type == "adamw or muon"
    assert all(key.help.endswith(".") for key in reference.values())
    # Comments of the configs state the same types.
    for line in (FOLDER / "tinystories-24m.yaml").read_text().splitlines():
        if match := re.match(r"([a-z_]+): .*?# ([a-z ]+):", line):
            assert match[2] == reference[match[1]].type or match[2] in ("list", "str"), line
