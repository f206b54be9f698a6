"""Commands as a user types them."""

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
from importlib import import_module

import pytest
from helpers import PROMPT, ROOT, edit_weights, fails_with_one_line, tinystories, tinystories_process

from tinystories.checks.targets import is_recipe
from tinystories.cli import VERBS, main, parse
from tinystories.commands.train import names_stories
from tinystories.recipe import load_recipe, parse_overrides, recipe_names, recipe_path, recipe_summary


def test_help_does_not_load_torch():
    result = tinystories_process("--help")
    assert result.returncode == 0
    for verb in ("train", "tokenizer", "generate", "export"):
        assert verb in result.stdout


def test_generate_is_reproducible_with_a_seed(tiny_run):
    first, again, other = (
        tinystories("generate", tiny_run, PROMPT, "--seed", seed, "--max-new-tokens", 30) for seed in (1, 1, 2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(PROMPT) and "<|endoftext|>" not in first.stdout
    assert first.stdout == again.stdout != other.stdout


def test_generate_streams_its_output(tiny_run):
    process = subprocess.Popen(
        [sys.executable, "-m", "tinystories.cli", "generate", str(tiny_run), PROMPT, "--seed", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    pieces = []
    while piece := os.read(process.stdout.fileno(), 65536):
        pieces.append(piece)
    assert process.wait() == 0
    assert len(pieces) > 5


def test_presets_differ(tiny_run):
    stories = {
        preset: tinystories("generate", tiny_run, PROMPT, "--preset", preset, "--seed", 1, "--max-new-tokens", 60)
        for preset in ("balanced", "conservative", "creative", "plain")
    }
    assert all(result.returncode == 0 for result in stories.values())
    assert len({result.stdout for result in stories.values()}) == 4


def test_mistakes_with_generate_are_one_line(tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    fails_with_one_line(tinystories("generate", "runs/none", PROMPT, cwd=tmp_path), "runs/none")
    fails_with_one_line(tinystories("generate", tmp_path / "empty", PROMPT), "not a run folder", "config.json")
    (tmp_path / "no_tokenizer").mkdir()
    (tmp_path / "no_tokenizer" / "config.json").write_text("{}")
    for command in (("generate", tmp_path / "no_tokenizer", PROMPT), ("doctor", tmp_path / "no_tokenizer")):
        fails_with_one_line(tinystories(*command), "no_tokenizer has no tokenizer", "tokenizer.json")
    (tmp_path / "damaged.pth").write_bytes(bytes(5_000))
    fails_with_one_line(tinystories("import", tmp_path / "damaged.pth", tmp_path / "new"), "is damaged", "torch.save")
    (tmp_path / "damaged.gguf").write_bytes(bytes(5_000))
    fails_with_one_line(tinystories("import", tmp_path / "damaged.gguf", tmp_path / "new"), "GGUF")
    fails_with_one_line(tinystories_process("generate", tiny_run, PROMPT, "--preset", "wild"), "wild", "conservative")
    fails_with_one_line(tinystories("generate", tiny_run, PROMPT, "--max-new-tokens", 0), "at least 1")
    fails_with_one_line(
        tinystories_process("generate", tiny_run, PROMPT, "--max-new-tokens", 999), "must be from 1 to"
    )
    fails_with_one_line(tinystories("generate", tiny_run, "again and " * 200), "shorten the prompt")
    fails_with_one_line(tinystories("generate", tiny_run, PROMPT, "--sed", 1), "--sed")
    missing = tinystories("train", ROOT / "configs" / "quickstart.yaml", "--tokenizer", "tok2", "--max_stories", 50,
                          "--output_dir", tmp_path / "run")  # fmt: skip
    fails_with_one_line(missing, "There is no folder tok2")
    (tmp_path / "broken").mkdir()
    for file in tiny_run.glob("*.*"):
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes()[:200_000])
    fails_with_one_line(tinystories("generate", tmp_path / "broken", PROMPT), "cannot be loaded")


def test_mistakes_with_train_are_one_line(tmp_path):
    quickstart = ROOT / "configs" / "quickstart.yaml"
    train_hf = [sys.executable, str(ROOT / "train_hf.py"), str(quickstart), "--learning_rat", "1"]
    fails_with_one_line(subprocess.run(train_hf, capture_output=True, text=True), "did you mean `learning_rate`?")
    fails_with_one_line(tinystories("train", "none.yaml"), "no recipe none.yaml", "quickstart")
    fails_with_one_line(tinystories("train", "quickstrat", "--max_steps", 1), "did you mean quickstart?")
    elsewhere = ("--output_dir", tmp_path / "run")
    fails_with_one_line(tinystories("train", quickstart, "--corpus", tmp_path / "none.txt", *elsewhere), "none.txt")
    fails_with_one_line(
        tinystories("train", quickstart, "--hidden_size", 100, "--num_attention_heads", 3, "--max_stories", 200,
                    "--output_dir", tmp_path / "run"),
        "`hidden_size` (100) must be a multiple",
    )  # fmt: skip


def test_options_may_be_written_with_underscores(tiny_run):
    result = tinystories_process("generate", tiny_run, PROMPT, "--seed", 1, "--max_new_tokens=5")
    assert result.returncode == 0, result.stderr


def test_errors_of_the_operating_system_are_one_line():
    fails_with_one_line(tinystories("tokenizer", "sample", "/proc/none", "--max-stories", 50), "/proc/none")


def test_an_unwritable_folder_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("x")
    quickstart = ROOT / "configs" / "quickstart.yaml"
    fails_with_one_line(tinystories("train", quickstart, "--output_dir", tmp_path / "file"), "is a file")
    inside = tmp_path / "file" / "run"
    fails_with_one_line(tinystories("train", quickstart, "--output_dir", inside), "file is a file")
    fails_with_one_line(tinystories("tokenizer", "sample", inside), "Cannot write to")


def test_tokenizer_is_trained_reported_and_loads(tmp_path):
    from transformers import AutoTokenizer

    result = tinystories("tokenizer", "sample", tmp_path / "tokenizer", "--vocab-size", 1000, "--max-stories", 500)
    assert result.returncode == 0, result.stderr
    assert '" a" yes, " an" yes, " the" yes' in result.stdout and "bytes per token" in result.stdout
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(tokenizer) == 1000 and tokenizer.model_max_length == 512
    assert tokenizer("The cat")["input_ids"][0] == tokenizer.bos_token_id

    result = tinystories(
        "tokenizer", "sample", tmp_path / "cut", "--top-k-of", tmp_path / "tokenizer", "--vocab-size", 600,
        "--max-stories", 500, "--model-max-length", 64,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    again = tinystories("tokenizer", "sample", tmp_path / "cut", "--max-stories", 500)
    fails_with_one_line(again, "already contains a tokenizer")
    cut = AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert len(cut) == 600 and cut.model_max_length == 64
    assert cut.decode(cut("A purple xylophone!")["input_ids"], skip_special_tokens=True) == "A purple xylophone!"


def test_mistakes_with_tokenizer_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty.txt").write_text("")
    fails_with_one_line(tinystories("tokenizer", "sample", tmp_path / "t", "--vocab-size", 100), "100")
    fails_with_one_line(tinystories("tokenizer", "sample", tmp_path / "file"), "is a file")
    fails_with_one_line(tinystories("tokenizer", tmp_path / "empty.txt", tmp_path / "t"), "empty.txt")
    fails_with_one_line(tinystories("tokenizer", "sample", tmp_path / "t", "--top-k-of", tmp_path), "has no tokenizer")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["sample", ""], "path of the folder to write to is empty"),
        (["", "t"], "no file or folder ''"),
        (["sample", "t", "--top-k-of", ""], "has no tokenizer"),
        (["sample", "t", "--top-k-of", "file"], "file is a file: specify the folder of the tokenizer"),
        ([os.devnull, "t"], "is a device, a pipe or a socket: specify a file or folder"),
    ],
)
def test_unusual_paths_with_tokenizer_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert main(["tokenizer", *arguments]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1 and words in message[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_help_text_with_three_examples(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = tinystories(verb, "--help").stdout
    assert text.startswith(f"usage: tinystories {verb}") and "\n\nexamples:\n" in text
    examples = text.partition("\nexamples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) == 3
    for example in examples:
        words = shlex.split(example.partition(" > ")[0], comments=True)
        assert words[:2] == ["tinystories", verb] and len(example) <= 120, example
        options = parse(words[1:])
        if verb == "train" and not names_stories(options.recipe, parse_overrides(options.overrides)):
            load_recipe(options.recipe, options.overrides)


@pytest.mark.parametrize("command", [(), ("recipes", "show")])
def test_the_help_of_the_command_and_of_an_action_has_three_examples(command):
    text = tinystories(*command, "--help").stdout
    examples = [shlex.split(line.partition(" > ")[0]) for line in text.partition("\nexamples:\n")[2].splitlines()]
    assert len(examples) == 3
    for words in examples:
        assert words[: 1 + len(command)] == ["tinystories", *command] and callable(parse(words[1:]).run)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_states_the_default_of_every_option(verb):
    parser = argparse.ArgumentParser()
    import_module(f"tinystories.commands.{verb}{'_' if verb == 'import' else ''}").add_arguments(parser)
    for action in parser._actions:
        if action.option_strings and action.nargs != 0 and not action.required:
            assert "default" in action.help, action.option_strings


def test_recipes_are_listed_and_shown(tmp_path):
    listed = tinystories("recipes", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == recipe_names()
    assert listed[1].split(maxsplit=1)[1] == recipe_summary("quickstart")
    for name in ("quickstart", "race/5"):
        shown = tinystories("recipes", "show", name, cwd=tmp_path)
        assert shown.stdout == recipe_path(name).read_text() and not shown.stderr
    fails_with_one_line(tinystories("recipes", "show", "quick-start"), "did you mean quickstart?")
    fails_with_one_line(tinystories("recipes", "show"), "name")


def test_doctor_takes_the_name_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_recipe("quickstart") and is_recipe("race/5") and is_recipe("my.yaml")
    assert not is_recipe("sample") and not is_recipe("openai-community/gpt2")
    (tmp_path / "quickstart").mkdir()
    assert not is_recipe("quickstart")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("QUICKSTRT", "There is no file, folder or recipe QUICKSTRT; did you mean the recipe quickstart?"),
        ("race/6", "did you mean the recipe race/60 or race/5 or race/20?"),
        (
            "nothing-like-it",
            "recipe nothing-like-it; specify a recipe, a run folder, a model, a tokenizer or stories.",
        ),
        ("stories.txt", "There is no file, folder or recipe stories.txt;"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--clean", "out")])
def test_doctor_names_the_nearest_recipe(target, message, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", target, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# Options out of range, in each verb

GENERATE, EVALUATE, SERVE = ("generate", "RUN", PROMPT), ("evaluate", "RUN"), ("serve", "RUN")
TOKENIZER, DOCTOR = ("tokenizer", "sample", "NEW"), ("doctor", "sample")
NOT_A_NUMBER = ["", "x", "1.5", "1e3", "nan", "inf", "0x10", "9" * 5_000]
WHOLE_NUMBERS = {
    (*GENERATE, "--seed"): ["-1", 2**32, 2**64],
    (*GENERATE, "--max-new-tokens"): [-1, 0],
    (*GENERATE, "-n"): [-1, 0, 1_001],
    (*GENERATE, "--top-k"): [-1, 2**31],
    (*EVALUATE, "--seed"): [-1, 2**32, 2**64],
    (*EVALUATE, "--limit"): [-1, 0],
    (*DOCTOR, "--limit"): [-1, 0],
    (*TOKENIZER, "--vocab-size"): [-1, 0, 2**31],
    (*TOKENIZER, "--model-max-length"): [-1, 0, 2**31],
    (*TOKENIZER, "--max-stories"): [-1, 0],
    (*SERVE, "--port"): [-1, 65_536],
    (*SERVE, "--max-batch"): [-1, 0, 10**9],
    (*SERVE, "--max-queue"): [-1, 2**31],
}
NUMBERS = {
    (*GENERATE, "--temperature"): [-0.1, 2.1, "nan", "inf", "1e400", "x", ""],
    (*GENERATE, "--top-p"): [-0.1, 0, 1.1, "nan", "inf", "x"],
    (*GENERATE, "--repetition-penalty"): [-1, 0, 0.9, 2.1, "nan", "inf", "x"],
    (*SERVE, "--time-limit"): [-1, 0, "nan", "inf", "1e400", "x"],
    (*SERVE, "--drain-time"): [-1, "nan", "inf", "1e400", "x"],
}


@pytest.mark.parametrize(
    ("command", "values"),
    [(command, values + NOT_A_NUMBER) for command, values in WHOLE_NUMBERS.items()] + list(NUMBERS.items()),
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, tuple) else "",
)
def test_a_number_out_of_range_is_one_line(command, values, tiny_run, tmp_path):
    places = {"RUN": tiny_run, "NEW": tmp_path / "new"}
    for value in values:
        result = tinystories(*(places.get(word, word) for word in command), value)
        fails_with_one_line(result, command[-1])
        assert result.stderr.count("\n") == 1, result.stderr
    # The parser reads a dash followed by letters as an option.
    result = tinystories(*(places.get(word, word) for word in command), "-inf")
    assert result.returncode == 2 and result.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_missing_unknown_and_undecodable_arguments_are_one_line(verb):
    for arguments in ((verb,), (verb, "x", "y", "--no-such-option", "1"), (verb, "caf\udce9", "x")):
        if arguments in (("serve",), ("recipes",)):
            continue  # the model of `serve` can be set in the environment
        result = tinystories(*arguments)
        fails_with_one_line(result)
        assert result.stderr.count("\n") == 1, result.stderr


def test_control_characters_in_a_name_are_escaped(tiny_run):
    result = tinystories("generate", "no\nsuch\x1b[31m", PROMPT)
    fails_with_one_line(result, r"no\nsuch\x1b[31m")
    assert result.stderr.count("\n") == 1


# Sampling settings


def test_sampling_options_override_the_preset(tiny_run):
    def text(*options):
        result = tinystories("generate", tiny_run, PROMPT, "--seed", 1, "--max-new-tokens", 40, *options)
        assert result.returncode == 0, result.stderr
        return result.stdout

    balanced, greedy = text("--preset", "balanced"), text("--preset", "greedy")
    assert balanced != greedy
    stated = ("--temperature", 0.8, "--top-k", 50, "--top-p", 0.95, "--repetition-penalty", 1.2)
    assert text("--preset", "creative", *stated) == balanced
    for option in (("--temperature", 2), ("--top-k", 2), ("--top-p", 0.1), ("--repetition-penalty", 2)):
        assert text("--preset", "balanced", *option) != balanced
    assert text("--preset", "plain", "--temperature", 0) == text("--preset", "plain", "--top-k", 1) == greedy
    # Greedy decoding keeps the penalty.
    assert text("--preset", "greedy", "--repetition-penalty", 2) == text("--temperature", 0, "--repetition_penalty", 2)
    assert text("--temperature", 0, "--repetition-penalty", 2) != greedy
    result = tinystories("generate", tiny_run, PROMPT, "--preset", "greedy", "--temperature", 1)
    fails_with_one_line(result, "--temperature", "greedy")


def test_several_stories_have_consecutive_seeds(tiny_run):
    def run(*options):
        return tinystories("generate", tiny_run, PROMPT, "--max-new-tokens", 15, *options)

    one, two = (run("--seed", seed).stdout for seed in (4, 5))
    assert run("--seed", 4, "-n", 1).stdout == one
    assert run("--seed", 4, "-n", 2).stdout == f"--- story 1\n{one}\n--- story 2\n{two}"
    last = run("--seed", 2**32 - 1, "-n", 2, "--post-process")
    assert last.returncode == 0 and last.stdout.count(PROMPT) == 2
    different = run("-n", 3)
    assert len(set(different.stdout.split("--- story ")[1:])) == 3
    for greedy in (("--preset", "greedy"), ("--temperature", 0)):
        fails_with_one_line(run("-n", 2, *greedy), "same story", "remove -n")


# The command itself


def test_version_and_module():
    from tinystories import __version__

    for module in ("tinystories", "tinystories.cli"):
        command = [sys.executable, "-m", module, "--version"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (0, f"tinystories {__version__}\n")


def needed_arguments(verb, tmp_path):
    """The arguments that a verb needs in addition to a model."""
    out = [tmp_path / "new"]
    needed = {"generate": [PROMPT], "export": out, "import": out, "push": ["--repo-id", "ada/x", "--dry-run"]}
    return needed.get(verb, [])


@pytest.mark.parametrize("verb", ["generate", "serve", "evaluate", "export", "push"])
def test_a_file_instead_of_a_model_gets_the_next_step(verb, tiny_run, tmp_path):
    arguments = needed_arguments(verb, tmp_path)
    words = {
        "model.gguf": ["llama-cli -m", "--engine llama.cpp", "run folder"],
        "model.onnx": ["ONNX Runtime", "run folder"],
        "model.pth": ["tinystories import", "model.pth"],
        "model.bin": ["tinystories import", "model.bin"],
        "model.safetensors": ["config.json", "tinystories import"],
        "story.txt": ["is a file", "run folder"],
    }
    for name, expected in words.items():
        (tmp_path / name).write_bytes(b"GGUF" + bytes(100))
        result = tinystories(verb, tmp_path / name, *arguments, cwd=tmp_path)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        line = next(line for line in result.stderr.splitlines() if name in line)
        assert all(word in line for word in expected), line
    result = tinystories(verb, tiny_run / "model.safetensors", *arguments, cwd=tmp_path)
    assert f"specify its folder, {tiny_run}" in result.stderr


@pytest.mark.parametrize("verb", ["generate", "evaluate", "export", "push", "doctor"])
def test_a_model_with_a_missing_weight_is_refused(verb, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    edit_weights(run, lambda weights: weights.pop("model.norm.weight"))
    result = tinystories(verb, run, *needed_arguments(verb, tmp_path), cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "do not match its config.json, missing keys: model.norm.weight" in result.stderr + result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files in folders")
@pytest.mark.parametrize("verb", ["generate", "serve", "evaluate", "export", "push", "import", "doctor"])
def test_a_device_pipe_or_socket_instead_of_a_model_is_one_line(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to about 100 bytes
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    arguments = needed_arguments(verb, tmp_path)
    for path in ("/dev/null", "pipe", "socket"):
        fails_with_one_line(tinystories(verb, path, *arguments, cwd=tmp_path), path, "a device, a pipe or a socket")
    if verb == "import":
        (tmp_path / "model.bin").write_bytes(bytes(100))
        for path in ("/dev/null", "pipe", "socket"):
            result = tinystories(verb, "model.bin", *arguments, "--tokenizer", path, cwd=tmp_path)
            fails_with_one_line(result, path, "a device, a pipe or a socket")
    assert not (tmp_path / "new").exists()
