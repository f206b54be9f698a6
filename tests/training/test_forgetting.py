"""Bits per byte on the stories of the base model in each evaluation (`keep_corpus`), and `replay`."""

import csv
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_fine_tuning import recipe_for, story_file  # noqa: F401  a fixture

from tinystories.commands.train import train
from tinystories.data.corpus import recipe_corpus
from tinystories.data.packing import pack_stories
from tinystories.data.replay import ReplayedRows
from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.hub.model_card import model_card
from tinystories.hub.release import public_recipe
from tinystories.recipe import build_recipe, load_recipe
from tinystories.runs.loading import load_model
from tinystories.runs.metadata import read_run_metadata
from tinystories.utils.errors import UserError


pytestmark = pytest.mark.usefixtures("without_dry_run")


def evaluations(run):
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return {e["step"]: (e["eval_bits_per_byte"], e["eval_old_bits_per_byte"]) for e in log if "eval_loss" in e}


def measured(model, texts):
    return bits_per_byte(score_stories(*load_model(str(model)), texts)).value


@pytest.fixture(scope="module")
def kept(tiny_run, story_file, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("runs") / "kept"
    return train(recipe_for(tiny_run, story_file, folder, keep_corpus="auto", max_steps=20, eval_steps=10))


def test_each_evaluation_has_old_and_new_stories(kept, tiny_run, capsys):
    found = evaluations(kept)
    assert list(found) == [0, 10, 20]
    assert found[20][0] < found[0][0] and found[20][1] > found[0][1], "it learns the new stories and forgets the old"
    texts = recipe_corpus(load_recipe(tiny_run / "recipe.yaml")).validation["text"][:16]
    assert found[0][1] == pytest.approx(measured(tiny_run, texts), rel=0.02), "validation stories of the base model"
    with (kept / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["eval_old_bits_per_byte"]) == found[0][1]
    settings = load_recipe(kept / "recipe.yaml").keep_corpus
    assert settings["corpus"] == "sample" and settings["max_stories"] == 600


def test_the_card_and_the_plot_show_both(kept):
    metadata = read_run_metadata(kept, load_model(str(kept))[0])
    before, after = evaluations(kept)[0], evaluations(kept)[20]
    assert metadata.fine_tuning == {"new": (before[0], after[0]), "old": (before[1], after[1])}
    card = str(model_card(metadata, "ada/shouted", {}))
    assert f"| old stories | {before[1]:.3f} | {after[1]:.3f} |" in card
    assert (kept / "loss.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_resumed_run_needs_neither_the_base_nor_its_recipe(tiny_run, story_file, tmp_path):  # noqa: F811
    base = shutil.copytree(tiny_run, tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint-*"))
    options = {"keep_corpus": "auto", "replay": 0.25, "max_steps": 44, "eval_steps": 11}
    whole = train(recipe_for(base, story_file, tmp_path / "whole", **options))
    run = shutil.copytree(whole, tmp_path / "run")
    for step in (33, 44):
        shutil.rmtree(run / f"checkpoint-{step}")
    shutil.rmtree(base)
    train(recipe_for(base, story_file, run, resume_from_checkpoint="true", **options))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert evaluations(run) == evaluations(whole)
    with pytest.raises(UserError, match="A resumed run cannot change replay"):
        train(recipe_for(base, story_file, run, resume_from_checkpoint="true", **{**options, "replay": 0.5}))


def test_replay_mixes_other_old_rows_into_each_epoch(tiny_run):
    _, tokenizer = load_model(str(tiny_run))
    new, old = (pack_stories(sample_stories(number, seed=seed), tokenizer, max_length=128, row_length=256)
                for number, seed in ((80, 1), (200, 2)))  # fmt: skip
    rows = ReplayedRows(new, old, fraction=0.25, seed=3)
    assert rows.replayed == round(len(new) / 3) and len(rows) == len(new) + rows.replayed
    texts = {tuple(row["input_ids"].tolist()): number for number, row in enumerate(old)}
    seen = []
    for epoch in range(3):
        rows.set_epoch(epoch)
        assert all(torch.equal(rows[number]["input_ids"], new[number]["input_ids"]) for number in range(len(new)))
        seen += [texts[tuple(row["input_ids"].tolist())] for row in rows.__getitems__(range(len(new), len(rows)))]
    assert len(set(seen)) == 3 * rows.replayed, "no old row is repeated while there are others"
    assert rows.tokens == pytest.approx(new.tokens / 0.75, rel=0.05)
    assert rows.tokens_per_row * len(rows) == pytest.approx(rows.tokens)


def test_replay_forgets_less(tiny_run, story_file, tmp_path, kept):  # noqa: F811
    options = {"keep_corpus": "auto", "replay": 0.5, "max_steps": 20, "eval_steps": 10}
    run = train(recipe_for(tiny_run, story_file, tmp_path / "run", **options))
    assert evaluations(run)[20][1] < evaluations(kept)[20][1]


def test_a_file_of_old_stories_is_used_as_a_whole(tiny_run, story_file, tmp_path):  # noqa: F811
    old = tmp_path / "old.txt"
    old.write_text("\n<|endoftext|>\n".join(sample_stories(12, seed=8)), "utf-8")
    run = train(recipe_for(tiny_run, story_file, tmp_path / "run", keep_corpus=old, max_steps=2))
    texts = old.read_text("utf-8").split("\n<|endoftext|>\n")
    assert evaluations(run)[0][1] == pytest.approx(measured(tiny_run, texts), rel=0.02)
    assert str(tmp_path) not in yaml.safe_dump(public_recipe(run))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep_corpus": "auto"}, "set `init_from`, too"),
        (
            {"init_from": "builtin", "replay": 0.1},
            "`replay` takes its stories from `keep_corpus`: set `keep_corpus`, too",
        ),
        (
            {"init_from": "builtin", "keep_corpus": "auto", "replay": 1.5},
            "`replay` must be between 0 and 1, for example 0.1, but is 1.5",
        ),
        (
            {"init_from": "builtin", "keep_corpus": "auto", "replay": 0.1, "streaming": True},
            "`replay` and `streaming` cannot be combined",
        ),
        ({"init_from": "builtin", "keep_corpus": {"split": "line"}}, "needs the key `corpus`"),
    ],
)
def test_mistakes_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        build_recipe(given)


def test_a_base_without_a_recipe_has_no_stories(tiny_run, story_file, tmp_path):  # noqa: F811
    base = shutil.copytree(tiny_run, tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint-*", "recipe.yaml"))
    with pytest.raises(UserError, match=r"has no recipe\.yaml: name the file or folder"):
        train(recipe_for(base, story_file, tmp_path / "run", keep_corpus="auto"))
    with pytest.raises(UserError, match=r"none\.txt"):
        train(recipe_for(base, story_file, tmp_path / "run", keep_corpus="none.txt"))
