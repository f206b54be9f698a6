"""Each evaluation during training logs the accuracy on coherence probes of the validation stories."""

import csv
import json

import pytest
from datasets import Dataset
from helpers import TINY_RECIPE

from tinystories.commands.train import train
from tinystories.data.corpus import recipe_corpus
from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.coherence import accuracy, score_probes
from tinystories.recipe import build_recipe
from tinystories.runs.loading import load_model
from tinystories.training.coherence import FEWEST_PROBES, MOST_PROBES, training_probes


def test_the_logged_accuracy_is_that_of_the_saved_model(tmp_path, capsys):
    own = {"output_dir": str(tmp_path / "run"), "max_steps": "6", "eval_steps": "6", "prompts": "[]"}
    recipe = build_recipe(
        TINY_RECIPE,
        {**own, "check": "false", "use_cpu": "true", "max_validation_stories": "60", "disable_tqdm": "false"},
    )
    run = train(recipe)
    log = json.loads((run / "trainer_state.json").read_text("utf-8"))["log_history"]
    logged = [entry for entry in log if "eval_bits_per_byte" in entry][-1]
    probes = training_probes(recipe_corpus(recipe).validation)
    assert {probe.kind for probe in probes} == {"name"}  # the sample stories have too few of the other kind
    model, tokenizer = load_model(run)
    [measured] = accuracy(score_probes(model, tokenizer, probes, progress=False)).values()
    assert logged["eval_name_accuracy"] == pytest.approx(measured["accuracy"], abs=0.02)
    assert "eval_order_accuracy" not in logged
    with (run / "log.csv").open(newline="") as file:
        assert any(row["eval_name_accuracy"] for row in csv.DictReader(file))
    assert f"coherence: name {logged['eval_name_accuracy']:.0%}" in "".join(capsys.readouterr())


def test_kinds_with_few_probes_are_left_out():
    def kinds(count: int) -> dict[str, int]:
        probes = training_probes(Dataset.from_dict({"text": list(sample_stories(count, seed=3))}))
        return {kind: sum(probe.kind == kind for probe in probes) for kind in {probe.kind for probe in probes}}

    assert kinds(4) == {}
    assert FEWEST_PROBES <= kinds(60)["name"] <= MOST_PROBES == kinds(600)["name"]
