"""The verdict before the first step, the warning while validation rises, and the weights that are kept."""

import json
import re

import pytest
import yaml
from helpers import TINY_RECIPE, by_check
from transformers import TrainingArguments

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.checks import examine
from tinystories.checks.hyperparameters import RunLength
from tinystories.checks.verdict import check_length, check_validation_stories, verdict
from tinystories.commands.train import train
from tinystories.data.synthetic import sample_stories
from tinystories.recipe import build_recipe, save_recipe
from tinystories.sizes import SIZES, parameter_count


pytestmark = pytest.mark.usefixtures("without_dry_run")


def plan(tmp_path, run=None, size="1m", **arguments):
    model = TinyLlamaForCausalLM(TinyLlamaConfig(**SIZES[size]))
    args = TrainingArguments(str(tmp_path), **{"eval_strategy": "steps", "eval_steps": 10, **arguments})
    return by_check(check_length(args, run or RunLength(100, 1.0, 1_000, corpus_tokens=2e5), model))


def test_a_run_that_fits_its_text_is_ok(tmp_path):
    found = plan(tmp_path, warmup_steps=5)
    assert {check: finding.status for check, finding in found.items()} == dict.fromkeys(
        ("training text", "warm-up", "evaluations"), "ok"
    )
    assert verdict(found.values()) == [
        "verdict     enough text and validation stories; warm-up and evaluations fit the length of the run"
    ]


@pytest.mark.parametrize(
    ("size", "tokens", "advice"),
    [
        ("24m", 2.4e6, "--size 15m, or 1 times as much"),
        ("24m", 5e5, "--size 3m, or 4.9 times as much"),
        ("3m", 2e5, "--size 1m, or 1.7 times as much"),
        ("1m", 5e4, "Use 2.2 times as much text: also the smallest size, 1m"),
    ],
)
def test_too_little_text_for_a_size_and_a_vocabulary(tmp_path, size, tokens, advice):
    found = plan(tmp_path, RunLength(100, 1.0, 1_000, corpus_tokens=tokens), size)["training text"]
    assert found.status == "note" and advice in found.advice, found.advice
    assert (
        f"{tokens:,.0f} tokens" in found.evidence
        and f"{tokens / SIZES[size]['vocab_size']:,.0f} per entry" in found.evidence
    )
    if size := re.match(r"Use --size (\w+),", found.advice):
        assert (
            plan(tmp_path, RunLength(100, 1.0, 1_000, corpus_tokens=tokens), size[1])["training text"].status == "ok"
        )


def test_a_vocabulary_may_be_too_large_for_the_text(tmp_path):
    model = TinyLlamaForCausalLM(TinyLlamaConfig(**{**SIZES["1m"], "vocab_size": 8_000, "hidden_size": 64}))
    args = TrainingArguments(str(tmp_path))
    for tokens, status in ((399_000, "note"), (401_000, "ok")):
        assert by_check(check_length(args, RunLength(corpus_tokens=tokens), model))["training text"].status == status


def test_many_epochs_are_named(tmp_path):
    found = plan(tmp_path, RunLength(4_000, 20.5, 1_000, corpus_tokens=2e5))["training text"]
    assert found.status == "note" and "in 20 epochs" in found.evidence and "--num_train_epochs" in found.advice


@pytest.mark.parametrize(
    ("warmup", "status"), [(0, "ok"), (99, "ok"), (100, "note"), (500, "note"), (0.05, "ok"), (0.999, "note")]
)
def test_a_warm_up_as_long_as_the_run(tmp_path, warmup, status):
    found = plan(tmp_path, warmup_steps=warmup)["warm-up"]
    assert found.status == status
    assert (status == "ok") != (
        "never reaches its maximum" in found.evidence and "--warmup_steps 0.05" in found.advice
    )


@pytest.mark.parametrize(("every", "status"), [(50, "ok"), (99, "ok"), (100, "note"), (0.5, "ok"), (0.99, "ok")])
def test_a_run_without_an_evaluation_on_the_way(tmp_path, every, status):
    assert plan(tmp_path, eval_steps=every)["evaluations"].status == status
    assert "evaluations" not in plan(tmp_path, eval_strategy="no", eval_steps=None)


@pytest.mark.parametrize(
    ("training", "held_out", "status"),
    [(5_000, 49, "note"), (5_000, 50, "ok"), (90, 9, "note"), (90, 10, "ok"), (None, 20, "note"), (None, 50, "ok")],
)
def test_validation_stories_are_counted(training, held_out, status):
    [found] = check_validation_stories(training, held_out)
    assert found.status == status and (status == "ok" or "--validation_corpus" in found.advice)


def test_the_number_of_parameters_of_a_size():
    for shape in SIZES.values():
        assert parameter_count(shape) == TinyLlamaForCausalLM(TinyLlamaConfig(**shape)).num_parameters()


# In a training run

STORIES = list(sample_stories(40, 3))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES), "utf-8")
    return path


def recipe_for(tmp_path, **overrides):
    own = {"output_dir": str(tmp_path / "run"), "max_stories": "null", "prompts": "[]", **overrides}
    return build_recipe(TINY_RECIPE, {key: str(value) for key, value in own.items()})


def test_a_verdict_is_printed_before_the_first_step(tmp_path, corpus, capsys):
    train(recipe_for(tmp_path, corpus=corpus, max_steps=4, warmup_steps=5))
    output = capsys.readouterr().out
    lines = output.partition("verdict     3 warnings; training starts nevertheless\n")[2].splitlines()[:3]
    assert lines[0].startswith("warning: training text: ") and "too little text for this model" in lines[0]
    assert lines[1].startswith("warning: warm-up: 5 steps of warm-up in a run of 4 steps: ")
    assert lines[2].startswith("warning: evaluations: none before the last of 4 steps (eval_steps is 60)")
    assert "The weights are those of step 4 of 4, the best of 1 evaluation (bits per byte)." in output


def test_without_evaluations_the_last_weights_are_kept(tmp_path, corpus, capsys):
    train(recipe_for(tmp_path, corpus=corpus, max_steps=4, eval_strategy="no", check=False))
    output = capsys.readouterr().out
    assert "The weights are those of the last step, 4." in output and "verdict" not in output


def test_the_doctor_gives_the_same_verdict_on_a_recipe(tmp_path, corpus):
    save_recipe(recipe_for(tmp_path, corpus=corpus, max_steps=4, warmup_steps=5), tmp_path / "recipe.yaml")
    found = by_check(examine(tmp_path / "recipe.yaml", quick=True))
    assert found["training text"].status == found["warm-up"].status == found["evaluations"].status == "note"
    assert found["validation stories"].evidence == "4 validation stories, 10.0% of all"


def test_overfitting_is_reported_while_it_happens_and_the_best_step_is_kept(tmp_path, corpus, capsys):
    run = train(recipe_for(tmp_path, corpus=corpus, check=False, eval_steps=15, save_total_limit="null"))
    output = capsys.readouterr().out
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    evaluations = [(entry["step"], entry["eval_bits_per_byte"]) for entry in log if "eval_bits_per_byte" in entry]
    during = dict(evaluations[:-1])  # the last is that of the best weights, after training
    best = min(during, key=during.__getitem__)
    assert len(during) == 8 and best < 90, during
    warned = [int(step) for step in re.findall(r"warning: validation has risen .* \(step (\d+)\)\. If", output)]
    assert warned == [step for step in range(15, 121, 15) if step > best and during[step] > 1.01 * during[best]]
    assert f"The weights are those of step {best} of 120, the best of 8 evaluations (bits per byte)." in output
    assert re.search(rf"warning: overfitting: since step {best} validation has risen", output)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["trainer"]["eval_steps"] == 15


def test_a_run_whose_validation_falls_has_no_warning(tiny_recipe, capsys):
    train(tiny_recipe(max_steps=40, eval_steps=10, prompts="[]"))
    output = capsys.readouterr().out
    assert "warning: validation has" not in output and "warning: overfitting" not in output
    assert "The weights are those of step 40 of 40, the best of 4 evaluations (bits per byte)." in output


# Validation stories of a corpus without a split


@pytest.mark.parametrize(
    ("stories", "held_out"), [(5, 1), (100, 10), (400, 40), (1_000, 50), (2_400, 50), (4_000, 80)]
)
def test_a_small_corpus_holds_out_more(tmp_path, stories, held_out):
    from tinystories.data.corpus import load_corpus

    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": f"Story {n}."}) + "\n" for n in range(stories)), "utf-8")
    corpus = load_corpus(str(path), cache_dir=str(tmp_path / "cache"))
    assert (len(corpus.train), len(corpus.validation)) == (stories - held_out, held_out)
