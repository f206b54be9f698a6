"""The model that is installed with the package."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import modeling_tinyllama  # noqa: F401  registers the architecture
from tinystories import generate_story, load_model, load_recipe
from tinystories.cli import main
from tinystories.evaluation.articles import count_articles
from tinystories.generation.batch import generate_stories
from tinystories.runs.builtin_model import BUILTIN, FOLDER, model_path


LARGEST = 8_000_000  # bytes
PROMPTS = ["Once upon a time", "One day, a little girl named Lily", "Tom and his dog", "The small bird"]


@pytest.fixture(scope="module")
def builtin():
    return load_model()


def test_its_files_are_small_and_complete():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LARGEST
    weights = load_file(FOLDER / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not list(FOLDER.glob("*.py")), "the package has the code of the model"
    assert load_recipe(FOLDER / "recipe.yaml").corpus == "roneneldan/TinyStories"
    texts = "".join(file.read_text("utf-8") for file in FOLDER.iterdir() if file.suffix in (".json", ".yaml", ".md"))
    assert not re.search(r"/(tmp|home|work|root)/", texts)


def test_its_card_states_data_licence_training_figures_and_limits():
    head, _, body = (FOLDER / "README.md").read_text("utf-8").removeprefix("---\n").partition("---\n")
    metadata = yaml.safe_load(head)
    assert (metadata["license"], metadata["datasets"]) == ("apache-2.0", ["roneneldan/TinyStories"])
    for words in ("CDLA-Sharing-1.0", "minutes", "bits per byte", "longest sequence of", "## Limits"):
        assert words in body, words
    (copied,) = re.findall(r"training story has (\d+) words", body)
    assert int(copied) < 50, "a whole paragraph of a training story"


def test_it_loads_as_float32_with_the_classes_of_transformers(builtin):
    model, tokenizer = builtin
    assert model.dtype == torch.float32 and model.num_parameters() < 4_000_000
    auto = AutoModelForCausalLM.from_pretrained(FOLDER)
    ids = AutoTokenizer.from_pretrained(FOLDER)(PROMPTS[0], return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(auto(ids).logits, model(ids).logits)
    generator = pipeline("text-generation", model=str(FOLDER))
    assert len(generator(PROMPTS[0], max_new_tokens=5)[0]["generated_text"]) > len(PROMPTS[0])


def test_it_writes_stories_with_articles_that_end(builtin):
    stories = generate_stories(*builtin, PROMPTS * 5, preset="plain", seed=0, progress=False)
    assert sum(story.ended for story in stories) >= 0.8 * len(stories)
    counts = [count_articles(story.text) for story in stories]
    assert sum(count.articles for count in counts) >= 5 * len(counts)
    assert len({story.text for story in stories}) == len(stories)


def test_generate_uses_it_without_a_model(capsys):
    def generated(*arguments):
        assert main(["generate", *arguments, "--max-new-tokens", "20"]) == 0
        return capsys.readouterr().out

    story = generated("Once upon a time", "--seed", "1")
    assert story.startswith("Once upon a time")
    assert story == generated(BUILTIN, "Once upon a time", "--seed", "1")
    assert story == generated(BUILTIN, "--seed", "1", "Once upon a time")
    assert story == generated("--seed", "1", "Once upon a time")
    assert generated("", "--seed", "1") == generated(BUILTIN, "", "--seed", "1")


@pytest.mark.parametrize("name", ["runs/none", "you/your-model", "."])
def test_a_model_without_a_prompt_is_one_line(name, capsys):
    assert main(["generate", name]) == 2
    assert f"Specify a prompt, too: tinystories generate {name}" in capsys.readouterr().err


def test_an_unknown_option_is_refused(capsys):
    assert main(["generate", "a", "--sed", "1"]) == 2
    assert "unrecognized arguments: --sed 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["a", "b", "c"], ["a", "--seed", "1", "b", "c"]])
def test_a_prompt_without_quotes_is_refused(arguments, capsys):
    assert main(["generate", *arguments]) == 2
    assert "A prompt of several words must be quoted" in capsys.readouterr().err


def test_merge_takes_its_name(tmp_path, capsys):
    assert main(["merge", BUILTIN, str(tmp_path / "out")]) == 2
    assert "is not a LoRA adapter but a complete model" in capsys.readouterr().err


def test_a_folder_of_that_name_takes_precedence(tmp_path, monkeypatch):
    assert model_path(BUILTIN) == str(FOLDER)
    monkeypatch.chdir(tmp_path)
    Path(BUILTIN).mkdir()
    assert model_path(BUILTIN) == BUILTIN


@pytest.mark.slow
def test_it_can_be_exported_and_evaluated(tmp_path, capsys):
    assert main(["export", BUILTIN, str(tmp_path / "stock")]) == 0
    assert json.loads((tmp_path / "stock" / "config.json").read_text("utf-8"))["model_type"] in ("llama", "phi3")
    (tmp_path / "held_out.txt").write_text("\n".join(generated_stories()), "utf-8")
    report = ["evaluate", BUILTIN, "--corpus", str(tmp_path / "held_out.txt"), "--split", "line", "--limit", "2"]
    assert main([*report, "--presets", "plain", "--out", str(tmp_path / "report")]) == 0


def generated_stories():
    model, tokenizer = load_model()
    return [generate_story(model, tokenizer, p, seed=1, max_new_tokens=60).replace("\n", " ") for p in PROMPTS]
