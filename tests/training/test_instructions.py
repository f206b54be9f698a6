"""A model that is trained with a template: from the annotated corpus to the command, the server and `pipeline`."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import TINY_RECIPE, fails_with_one_line, tinystories
from transformers import AutoTokenizer, pipeline

from tinystories.commands.train import train
from tinystories.data.synthetic import sample_stories
from tinystories.generation.generate import generate_story
from tinystories.hub.model_card import model_card
from tinystories.recipe import build_recipe, load_recipe
from tinystories.runs.loading import load_model
from tinystories.runs.metadata import read_run_metadata
from tinystories.runs.run_folder import checkpoint_step, find_checkpoints
from tinystories.text.annotate import Annotator
from tinystories.utils.errors import UserError


pytestmark = pytest.mark.usefixtures("without_dry_run")
TEMPLATE = "Words: {words}\nFeatures: {features}\nStory:"
ASKED = {"words": "dog, ball", "features": "happy ending"}
PROMPT = "Words: dog, ball\nFeatures: happy ending\nStory:\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Short annotated stories."""
    stories = [". ".join(story.split(". ")[:4]) + "." for story in sample_stories(90, seed=6)]
    annotate = Annotator(stories)
    file = tmp_path_factory.mktemp("corpus") / "annotated.jsonl"
    file.write_text("".join(json.dumps({"text": story, **annotate(story)}) + "\n" for story in stories))
    return file


def recipe_for(stories, folder, **given):
    trainer = {**TINY_RECIPE["trainer"], "max_steps": 8, "logging_steps": 4, "eval_steps": 4, "save_steps": 4,
               "save_total_limit": None, "use_cpu": True}  # fmt: skip
    content = {
        **TINY_RECIPE,
        "corpus": str(stories),
        "template": TEMPLATE,
        "template_dropout": 0.2,
        "max_stories": 60,
        "prompts": None,
        "trainer": trainer,
    }
    return build_recipe(content, {"output_dir": str(folder), **{name: str(value) for name, value in given.items()}})


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    return train(recipe_for(corpus, tmp_path_factory.mktemp("runs") / "instructed"))


def log_of(run):
    log = json.loads((Path(run) / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if name.startswith(("loss", "eval_bits"))} for entry in log]


@pytest.fixture(scope="module")
def expected(run):
    """What greedy decoding appends to the filled-in template and the beginning of a story."""
    story = generate_story(*load_model(str(run)), f"{PROMPT}One day", preset="greedy", max_new_tokens=15)
    return story.removeprefix(f"{PROMPT}One day")


def test_training_shows_stories_for_filled_in_templates(corpus, tmp_path, capsys):
    train(recipe_for(corpus, tmp_path / "run", max_steps=2))
    shown = capsys.readouterr().out.partition("--- story 1\n")[2]
    assert shown.startswith("Words: ") and "\nStory:\n" in shown


def test_checks_find_no_error_in_instructed_batches(run):
    result = tinystories("doctor", run, "--quick")
    assert result.returncode == 0, result.stdout
    assert "100% of stories begin with" in result.stdout and "equal to input_ids" in result.stdout


def test_a_run_is_resumed_exactly(run, corpus, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    last, first = find_checkpoints(folder)
    shutil.rmtree(last)
    assert checkpoint_step(first) == 4
    for name in ("model.safetensors", "trainer_state.json"):
        (folder / name).unlink()
    again = train(recipe_for(corpus, folder, resume_from_checkpoint="true"))
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert log_of(again) == log_of(run)
    for change in ({"template": "Words: {words}"}, {"template_dropout": 0.1}, {"train_on_template": True}):
        with pytest.raises(UserError, match=next(iter(change))):
            train(recipe_for(corpus, folder, resume_from_checkpoint="true", **change))


def test_the_loss_of_the_template_is_an_option(run, corpus, tmp_path):
    whole = train(recipe_for(corpus, tmp_path / "run", train_on_template=True))
    losses = [next(entry["loss"] for entry in log_of(folder) if "loss" in entry) for folder in (run, whole)]
    assert losses[0] != losses[1]
    assert load_recipe(whole / "recipe.yaml").train_on_template is True


def test_the_template_is_saved_with_checkpoints_and_exports(run, tmp_path):
    from tinystories.export.stock import export_stock

    for folder in (run, find_checkpoints(run)[0], export_stock(run, tmp_path / "stock").folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        chat = [{"role": "user", "content": "Words: dog, ball\nFeatures: happy ending"}]
        assert (
            tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "<|endoftext|>" + PROMPT
        )


def test_the_model_card_shows_the_message(run, tiny_run):
    cards = [
        str(model_card(read_run_metadata(folder, load_model(str(folder))[0]), "me/model", {}))
        for folder in (run, tiny_run)
    ]
    assert r'message = "Words: ...\nFeatures: ..."' in cards[0] and "message" not in cards[1]


def test_fine_tuning_keeps_or_replaces_the_template(run, corpus, tmp_path):
    fine = {"init_from": str(run), "corpus": str(corpus), "prompts": [], "max_stories": 40,
            "trainer": {**TINY_RECIPE["trainer"], "max_steps": 2, "use_cpu": True}}  # fmt: skip
    kept = train(build_recipe(fine, {"output_dir": str(tmp_path / "kept")}))
    assert AutoTokenizer.from_pretrained(kept).init_kwargs["story_template"] == TEMPLATE
    given = {"output_dir": str(tmp_path / "new"), "template": r"About: {summary}\n"}
    new = train(build_recipe(fine, given))
    assert AutoTokenizer.from_pretrained(new).init_kwargs["story_template"] == "About: {summary}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"template": "Words: {words"}, ["template", "not valid"]),
        ({"template": "Words:"}, ["template", "no field"]),
        ({"template": "About: {topic}"}, ["topic", "tinystories annotate"]),
        ({"template_dropout": "1"}, ["template_dropout", "below 1"]),
        ({"template": "null"}, ["template_dropout", "needs a `template`"]),
        ({"corpus": "sample"}, ["tinystories annotate sample"]),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(change, words, corpus, tmp_path):
    with pytest.raises(UserError) as error:
        train(recipe_for(corpus, tmp_path / "run", **change))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("run/*"))


# ---- generating


def test_generate_takes_fields(run, expected):
    greedy = "--preset", "greedy", "--max-new-tokens", "15"
    fields = "--words", "dog, ball", "--features", "happy ending"
    for arguments in ((run, "One day", *fields, *greedy), (run, "One day", *fields, *greedy, "--post-process")):
        result = tinystories("generate", *arguments)
        assert result.returncode == 0 and result.stdout.startswith("One day"), result.stderr
    assert tinystories("generate", run, "One day", *fields, *greedy).stdout.strip() == f"One day{expected}".strip()
    alone = tinystories("generate", run, *fields, *greedy)
    story = generate_story(*load_model(str(run)), PROMPT, preset="greedy", max_new_tokens=15).removeprefix(PROMPT)
    assert alone.stdout.strip() == story.strip()
    again = tinystories("generate", run, "--field", "words=dog, ball", "--field", "features=happy ending", *greedy)
    assert again.stdout == alone.stdout


def test_the_best_of_several_stories_uses_the_words(run):
    from tinystories.generation.best_of import best_stories
    from tinystories.text.wanted_words import missing_words

    options = {"best_of": 4, "n": 4, "seed": 1, "max_new_tokens": 40, "progress": False}
    model, tokenizer = load_model(str(run))
    best = best_stories(model, tokenizer, "One day", fields={"words": "the, xylophone"}, **options)
    for story, faults in zip(best.stories, best.faults, strict=True):
        assert story.text.startswith("One day") and story.prompt == "One day"
        missing = [fault.text for fault in faults if fault.rule == "missing word"]
        assert missing == missing_words(story.text, "the, xylophone") and "xylophone" in missing
    assert list(map(len, best.faults)) == sorted(map(len, best.faults))
    result = tinystories("generate", run, "--words", "the", "--best-of", "2", "--max-new-tokens", "9", "--seed", "1")
    assert result.returncode == 0 and "Words:" not in result.stdout and "best of 2" in result.stderr
    text = generate_story(model, tokenizer, "One day", best_of=2, fields=ASKED, max_new_tokens=9, seed=3)
    assert text.startswith("One day")


def test_wrong_fields_are_one_line(run, tiny_run):
    fails_with_one_line(tinystories("generate", run, "Hi", "--summary", "a"), "no field summary", "words, features")
    fails_with_one_line(tinystories("generate", tiny_run, "Hi", "--words", "a"), "without a `template`")
    fails_with_one_line(tinystories("generate", run, "Hi", "--words", " "), "words or features")
    fails_with_one_line(tinystories("generate", run, "Hi", "--field", "words"), "NAME=VALUE")
    fails_with_one_line(
        tinystories("generate", run, "Hi", "--words", "a", "--field", "words=b"), "words is given twice"
    )
    fails_with_one_line(tinystories("generate", run, "Hi", "--words", "a", "--engine", "llama.cpp"), "llama.cpp")


def test_the_server_takes_fields(run, expected):
    for package in ("fastapi", "limits", "uvicorn"):
        pytest.importorskip(package)
    openai = pytest.importorskip("openai")
    from story_server import running

    with running(run) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        options = {"model": "tiny", "temperature": 0, "max_tokens": 15}

        def chat(content, **more):
            messages = [{"role": "user", "content": content}]
            return client.chat.completions.create(messages=messages, **options, **more).choices[0].message.content

        fields = {"extra_body": {"fields": ASKED}}
        assert client.completions.create(prompt="One day", **fields, **options).choices[0].text == expected
        assert chat("One day", **fields) == expected
        assert chat("words: dog, ball\nFeatures: happy ending\nStory:\nOne day") == expected
        echoed = client.completions.create(prompt="One day", echo=True, **fields, **options).choices[0].text
        assert echoed == f"{PROMPT}One day{expected}"
        chosen = client.completions.create(
            model="tiny", prompt="One day", n=1, seed=1, max_tokens=15, extra_body={"best_of": 3, "fields": ASKED}
        )
        assert len(chosen.choices) == 1 and chosen.choices[0].text
        for wrong, words in (
            ({"prompt": "a", "fields": {"topic": "b"}}, "no field topic"),
            ({"prompt": "a", "fields": {"words": " "}}, "words or features"),
            ({"prompt": [5], "fields": {"words": "b"}}, "tokens"),
        ):
            answer = server.complete(**wrong)
            assert answer.status == 422 and answer.json()["error"]["param"] == "fields"
            assert words in answer.json()["error"]["message"]
        with pytest.raises(openai.UnprocessableEntityError, match="no field topic"):
            chat("a", extra_body={"fields": {"topic": "b"}})


def test_pipeline_takes_fields(run, expected):
    model, tokenizer = load_model(str(run))
    storyteller = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 15}
    chat = [{"role": "user", "content": "Words: dog, ball\nFeatures: happy ending\nOne day"}]
    assert storyteller(chat, **options)[0]["generated_text"][-1]["content"] == expected
