"""`tinystories train` on stories, with minutes instead of a recipe."""

import pytest
import yaml
from helpers import fails_with_one_line, tinystories

from tinystories.data.synthetic import sample_stories
from tinystories.recipe import load_recipe


pytestmark = pytest.mark.usefixtures("without_dry_run")


@pytest.fixture(scope="module")
def story_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("stories") / "my_stories.txt"
    file.write_text("\n<|endoftext|>\n".join(sample_stories(150, seed=3)), encoding="utf-8")
    return file


@pytest.mark.slow
def test_stories_and_minutes_choose_a_recipe(story_file, tmp_path):
    # So short a run has no evaluations, and thus no checkpoint to resume from, unless they are asked for.
    evaluated = ("--eval_strategy", "steps", "--eval_steps", 20)
    done = tinystories("train", story_file, "--minutes", 0.1, "--disable_tqdm", "true", *evaluated, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    begins = [line.split("  ")[0] for line in lines[1:6]]
    assert begins == ["model", "vocabulary", "batch", "epochs", "held out"]
    assert any(line.startswith("Expected: about") for line in lines)
    assert "Only 15 stories could be held out" in done.stdout

    run = tmp_path / "runs" / "my_stories"
    assert (run / "model.safetensors").is_file()
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# Chosen by `tinystories train {story_file} --minutes 0.1`:\n# model  ")
    recipe = load_recipe(run / "recipe.yaml")
    assert recipe.max_minutes <= 0.1 and recipe.corpus == str(story_file)
    stories = story_file.read_text(encoding="utf-8").split("\n<|endoftext|>\n")
    openings = {" ".join(story.split()[:6]) for story in stories}
    assert recipe.prompts and set(recipe.prompts) <= openings
    for prompt in recipe.prompts:
        assert prompt in done.stdout.partition("--- story 1")[2]

    fails_with_one_line(tinystories("train", story_file, "--minutes", 0.1, cwd=tmp_path), "already contains a run")
    fails_with_one_line(tinystories("train", run, "--minutes", 1, cwd=tmp_path), "model folder", "recipe.yaml")
    resumed = tinystories("train", story_file, "--minutes", 0.1, "--resume_from_checkpoint", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "measuring" not in resumed.stdout, "a resumed run keeps its recipe"

    again = tinystories("train", run / "recipe.yaml", "--output_dir", tmp_path / "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    repeated = load_recipe(tmp_path / "again" / "recipe.yaml")
    assert repeated.model == recipe.model and repeated.prompts == recipe.prompts
    sizes = [[line for line in part.stdout.splitlines() if line.startswith("model  ")][-1] for part in (done, again)]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_settings_of_the_user_replace_those_of_the_plan(story_file, tmp_path):
    run = tmp_path / "mine"
    done = tinystories("train", story_file, "--minutes", 0.05, "--output_dir", run, "--lr", "0.004", "--size", "1m",
                       "--max_length", 128, "--prompts", "[]", "--check", "false")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    replaced = next(line for line in done.stdout.splitlines() if line.startswith("replaced  "))
    assert "learning_rate 0.004 (planned: 0.01)" in replaced and "max_length 128" in replaced
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["trainer"]["learning_rate"] == 0.004 and recipe["model"]["hidden_size"] == 128
    assert recipe["vocab_size"] == 2048 and recipe["max_length"] == 128 and recipe["prompts"] == []


def test_several_processes_need_a_recipe(story_file, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    fails_with_one_line(tinystories("train", story_file, "--minutes", 1), "With several processes, use a recipe")


def test_mistakes_are_one_line(story_file, tmp_path):
    fails_with_one_line(tinystories("train", story_file), "--minutes 20", "tinystories-3m --corpus")
    fails_with_one_line(tinystories("train", "sample"), "add the time")
    fails_with_one_line(
        tinystories("train", "missing.txt", "--minutes", 5, cwd=tmp_path), "no file or folder missing.txt"
    )
    fails_with_one_line(tinystories("train", "quikstart", "--minutes", 5), "did you mean quickstart")
    fails_with_one_line(tinystories("train", "race/7", "--minutes", 5), "no recipe race/7")
    fails_with_one_line(tinystories("train", story_file, "--minutes", "soon"), "`--max_minutes` must be float")
    fails_with_one_line(tinystories("train", story_file, "--minutes", 0), "must be above 0")
    fails_with_one_line(tinystories("train", story_file, "--minutes", 1, "--streaming"), "--streaming")
    fails_with_one_line(tinystories("train", story_file, "--minutes", 1, "--learning_rat", 1), "learning_rate")
    contradicted = tinystories("train", story_file, "--minutes", 1, "--steps", 5)
    fails_with_one_line(contradicted, "remove --max_steps")
    assert not contradicted.stdout, "settings are checked before the stories are read"
    one = tmp_path / "one.txt"
    one.write_text("Once upon a time there was a fox.", encoding="utf-8")
    fails_with_one_line(
        tinystories("train", one, "--minutes", 1, "--split", "file", cwd=tmp_path), "only one distinct"
    )
    (tmp_path / "book.pdf").write_bytes(b"%PDF-1.4")
    for command in (("train", "book.pdf", "--minutes", 1), ("finetune", "book.pdf")):
        fails_with_one_line(tinystories(*command, cwd=tmp_path), "convert it first: `pdftotext book.pdf book.txt`")
    (tmp_path / "empty").mkdir()
    fails_with_one_line(tinystories("train", tmp_path / "empty", "--minutes", 1, cwd=tmp_path), "contains no files")


def test_minutes_limit_the_time_of_a_recipe(tmp_path):
    recipe = load_recipe("quickstart", ["--minutes", "5"])
    assert recipe.max_minutes == 5 and recipe.trainer["max_steps"] == 2300, "the minutes take precedence"


def test_minutes_and_a_base_model_choose_a_recipe(tiny_run, story_file, tmp_path):
    options = ("--minutes", 0.1, "--prompts", "[]", "--disable_tqdm", "true")
    done = tinystories("train", story_file, "--init_from", tiny_run, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:6]] == ["model", "rate", "batch", "epochs", "held out"]
    run = tmp_path / "runs" / "my_stories"
    recipe, base = load_recipe(run / "recipe.yaml"), load_recipe(tiny_run / "recipe.yaml")
    assert recipe.model["hidden_size"] == base.model["hidden_size"] and recipe.init_from == str(tiny_run)
    assert recipe.trainer["learning_rate"] <= 3e-3 and recipe.max_minutes <= 0.1
    assert f"--init_from {tiny_run}" in (run / "recipe.yaml").read_text("utf-8").splitlines()[0]
    refused = tinystories("train", story_file, "--init_from", tiny_run, "--minutes", 1, "--size", "3m", cwd=tmp_path,
                          )  # fmt: skip
    fails_with_one_line(refused, "already contains a run")
    other = ("--output_dir", tmp_path / "other")
    refused = tinystories("train", story_file, "--init_from", tiny_run, "--minutes", 1, "--size", "3m", *other)
    fails_with_one_line(refused, "contradict the base model", "hidden_size is 192, not 64")
