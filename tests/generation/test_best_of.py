"""The best of several completions: fewest faults, then likelihood."""

import pytest
import torch

from tinystories import generate_story
from tinystories.cli import main
from tinystories.generation.batch import generate_stories
from tinystories.generation.best_of import BestStories, best_first, best_stories, mean_log_likelihoods
from tinystories.generation.prompts import encode_prompt
from tinystories.runs.loading import load_model
from tinystories.text.faults import find_faults
from tinystories.utils.errors import UserError


PROMPT = "Once upon a time"
SETTINGS = {"preset": "creative", "max_new_tokens": 80, "seed": 5}


@pytest.fixture(scope="module")
def tiny(tiny_run):
    return load_model(str(tiny_run))


@pytest.fixture(scope="module")
def candidates(tiny):
    """The completions from which the tests below choose, best first."""
    stories = generate_stories(*tiny, [PROMPT] * 12, batch_size=12, progress=False, **SETTINGS)
    faults = [len(find_faults(story.text, story.ended)) for story in stories]
    likelihoods = mean_log_likelihoods(tiny[0], encode_prompt(tiny[1], PROMPT), [story.ids for story in stories])
    assert len(set(faults)) > 1
    return [(stories[place], faults[place], likelihoods[place]) for place in best_first(faults, likelihoods)]


def test_fewest_faults_first_and_then_the_most_probable():
    assert best_first([2, 0, 1, 0], [-1.0, -3.0, -0.5, -2.0]) == [3, 1, 2, 0]


def test_the_likelihood_is_the_mean_of_the_log_probabilities(tiny, candidates):
    model, tokenizer = tiny
    story, _, likelihood = candidates[0]
    prompt = encode_prompt(tokenizer, PROMPT)
    ids = torch.tensor([[*prompt, *story.ids]])
    with torch.inference_mode():
        log_probabilities = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert likelihood == pytest.approx(
        log_probabilities.gather(1, ids[0, len(prompt) :, None]).mean().item(), rel=1e-4
    )
    assert mean_log_likelihoods(model, encode_prompt(tokenizer, PROMPT), [()]) == [0.0]


def test_the_best_stories_are_returned_in_order(tiny, candidates):
    best = best_stories(*tiny, PROMPT, best_of=12, n=3, progress=False, **SETTINGS)
    assert [story.text for story in best.stories] == [story.text for story, *_ in candidates[:3]]
    assert [len(faults) for faults in best.faults] == [faults for _, faults, _ in candidates[:3]]
    assert best.faulty == sum(faults > 0 for _, faults, _ in candidates)


def test_generate_story_returns_the_best(tiny, candidates):
    assert generate_story(*tiny, PROMPT, best_of=12, **SETTINGS) == candidates[0][0].text


def test_without_a_seed_the_random_state_decides(tiny):
    settings = {"best_of": 3, "max_new_tokens": 20, "preset": "creative"}
    torch.manual_seed(1)
    first, second = (generate_story(*tiny, PROMPT, **settings) for _ in range(2))
    torch.manual_seed(1)
    assert generate_story(*tiny, PROMPT, **settings) == first != second


def test_sampling_settings_apply(tiny):
    model, tokenizer = tiny
    settings = {"max_new_tokens": 30, "seed": 1, "best_of": 4}
    cold = {generate_story(model, tokenizer, PROMPT, sampling={"top_k": 1}, **settings)}
    cold.add(generate_story(model, tokenizer, PROMPT, sampling={"top_k": 1}, **settings | {"seed": 2}))
    assert len(cold) == 1  # one token to choose from
    warm = {generate_story(model, tokenizer, PROMPT, **settings | {"seed": seed}) for seed in (1, 2)}
    assert len(warm) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"best_of": 0}, "best_of must be at least 1"),
        ({"best_of": 2, "stream": True}, "cannot be streamed"),
        ({"best_of": 2, "preset": "greedy"}, "same story each time"),
        ({"best_of": 2, "sampling": {"temperature": 0}}, "same story each time"),
        ({"best_of": 2, "max_new_tokens": 100_000}, "max_new_tokens must be from 1"),
    ],
)
def test_mistakes(tiny, change, words):
    with pytest.raises(UserError, match=words):
        generate_story(*tiny, PROMPT, **change)


def test_the_number_of_stories_must_fit(tiny):
    for n in (0, 4):
        with pytest.raises(UserError, match="at least"):
            best_stories(*tiny, PROMPT, best_of=3, n=n)


def test_the_summary():
    fault = find_faults("", ended=False)
    assert str(BestStories([None], [[]], 8, 3)) == "best of 8: 0 faults; 3 of 8 stories had faults"
    assert str(BestStories([None], [fault], 2, 2)) == "best of 2: 1 fault; 2 of 2 stories had faults"
    two = BestStories([None] * 2, [[], fault], 4, 3)
    assert str(two) == "best 2 of 4: 0 and 1 faults; 3 of 4 stories had faults"
    three = BestStories([None] * 3, [[], [], fault], 4, 2)
    assert str(three) == "best 3 of 4: 0, 0 and 1 faults; 2 of 4 stories had faults"


# The command


def generate(*options) -> int:
    return main(["generate", *map(str, options)])


def test_the_command_prints_the_best_story_and_how_it_was_chosen(tiny_run, candidates, capsys):
    options = ["--best-of", 12, "--preset", "creative", "--max-new-tokens", 80, "--seed", 5]
    assert generate(tiny_run, PROMPT, *options) == 0
    out, err = capsys.readouterr()
    assert out == candidates[0][0].text + "\n"
    assert f"best of 12: {candidates[0][1]} fault" in err.splitlines()[-1]
    assert generate(tiny_run, PROMPT, *options, "-n", 2, "--post-process") == 0
    out, err = capsys.readouterr()
    assert out.startswith("--- story 1\n") and "\n--- story 2\n" in out and "best 2 of 12: " in err


def test_mistakes_of_the_command_are_one_line(tiny_run, capsys):
    for options, words in (
        (["--best-of", 0], "--best-of"),
        (["--best-of", 3, "-n", 4], "--best-of must be at least 4"),
        (["--best-of", 3, "--preset", "greedy"], "remove --best-of"),
        (["--best-of", 3, "--temperature", 0], "remove --best-of"),
        (["--best-of", 3, "--engine", "llama.cpp"], "remove --engine"),
    ):
        assert generate(tiny_run, PROMPT, *options) == 2
        out, err = capsys.readouterr()
        assert not out and words in err.strip().splitlines()[-1] and "Traceback" not in err
