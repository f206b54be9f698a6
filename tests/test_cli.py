"""Commands as a user gives them."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinystories.cli import main


ROOT = Path(__file__).parent.parent
PROMPT = "Once upon a time"


def tinystories_process(*arguments):
    command = [sys.executable, "-m", "tinystories.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def tinystories(*arguments, cwd=ROOT):
    """The same in this process, which has loaded already what each one takes seconds to load."""
    command, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd):
        try:
            status = main(command)
        except SystemExit as left:
            status = left.code
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def fails_with_one_line(result, *words):
    """Exit status 2, and a last line that names the mistake, with no traceback before it."""
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last, last


def test_help_answers_without_loading_torch():
    code = "import sys; from tinystories.cli import _parser; _parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    result = tinystories_process("--help")
    assert result.returncode == 0
    for verb in ("train", "tokenizer", "generate", "export"):
        assert verb in result.stdout


def test_generate_streams_a_story_and_a_seed_tells_it_again(tiny_run):
    first, again, other = (
        tinystories("generate", tiny_run, PROMPT, "--seed", seed, "--max-new-tokens", 30) for seed in (1, 1, 2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(PROMPT) and "<|endoftext|>" not in first.stdout
    assert first.stdout == again.stdout != other.stdout


def test_generate_writes_as_the_story_comes(tiny_run):
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
    fails_with_one_line(tinystories_process("generate", tiny_run, PROMPT, "--preset", "wild"), "wild", "conservative")
    fails_with_one_line(tinystories("generate", tiny_run, PROMPT, "--max-new-tokens", 0), "at least 1")
    fails_with_one_line(tinystories_process("generate", tiny_run, PROMPT, "--max-new-tokens", 999), "at most")
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
    fails_with_one_line(subprocess.run(train_hf, capture_output=True, text=True), "nearest is `learning_rate`")
    fails_with_one_line(tinystories("train", "none.yaml"), "no recipe none.yaml", "configs/")
    elsewhere = ("--output_dir", tmp_path / "run")
    fails_with_one_line(tinystories("train", quickstart, "--corpus", tmp_path / "none.txt", *elsewhere), "none.txt")
    fails_with_one_line(
        tinystories("train", quickstart, "--hidden_size", 100, "--num_attention_heads", 3, "--max_stories", 200,
                    "--output_dir", tmp_path / "run"),
        "`hidden_size` (100) must be a multiple",
    )  # fmt: skip


def test_options_may_be_spelt_with_underscores(tiny_run):
    result = tinystories_process("generate", tiny_run, PROMPT, "--seed", 1, "--max_new_tokens=5")
    assert result.returncode == 0, result.stderr


def test_what_the_system_refuses_is_one_line():
    fails_with_one_line(tinystories("tokenizer", "sample", "/proc/none", "--max-stories", 50), "/proc/none")


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    quickstart = ROOT / "configs" / "quickstart.yaml"
    fails_with_one_line(tinystories("train", quickstart, "--output_dir", tmp_path / "file"), "is a file")
    inside = tmp_path / "file" / "run"
    fails_with_one_line(tinystories("train", quickstart, "--output_dir", inside), "file is a file")
    fails_with_one_line(tinystories("tokenizer", "sample", inside), "cannot be written to")


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
    fails_with_one_line(again, "holds a tokenizer already")
    cut = AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert len(cut) == 600 and cut.model_max_length == 64
    assert cut.decode(cut("A purple xylophone!")["input_ids"], skip_special_tokens=True) == "A purple xylophone!"


def test_mistakes_with_tokenizer_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty.txt").write_text("")
    fails_with_one_line(tinystories("tokenizer", "sample", tmp_path / "t", "--vocab-size", 100), "100")
    fails_with_one_line(tinystories("tokenizer", "sample", tmp_path / "file"), "is a file")
    fails_with_one_line(tinystories("tokenizer", tmp_path / "empty.txt", tmp_path / "t"), "empty.txt")
    fails_with_one_line(tinystories("tokenizer", "sample", tmp_path / "t", "--top-k-of", tmp_path), "cannot be loaded")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("verb", ["train", "tokenizer", "generate", "export"])
def test_each_verb_explains_itself(verb):
    result = tinystories_process(verb, "--help")
    assert result.returncode == 0 and f"tinystories {verb}" in result.stdout
