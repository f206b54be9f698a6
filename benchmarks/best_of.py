"""What choosing the best of several stories gains and loses, by figures that are used for the choice and others.

    python benchmarks/best_of.py builtin --preset balanced --train-corpus stories/train.parquet --scorer runs/other

For each of 100 prompts, 8 stories are generated. Three choices are compared: the first story; the one with the fewest
faults, of equal ones the most probable (`tinystories generate --best-of 8`); and the most probable one. Faults and
likelihood decide, so other figures show whether the choice is better: bits per byte of the completions under another
model (--scorer), words that no training story has, repetition, errors in articles, and diversity.
"""

import argparse
import time
from itertools import cycle, islice

import numpy as np
from figures import describe_machine, save_json

from tinystories.evaluation.articles import article_statistics
from tinystories.evaluation.diversity import diversity
from tinystories.evaluation.intervals import Interval, bits_per_byte_interval, ratio_interval
from tinystories.evaluation.likelihood import score_stories
from tinystories.evaluation.stories import TrainingStories
from tinystories.evaluation.story_figures import fault_rates
from tinystories.evaluation.text_statistics import out_of_vocabulary_rate, repetition, vocabulary, words
from tinystories.generation.batch import PROMPTS, GeneratedStory, generate_stories
from tinystories.generation.best_of import best_first, best_stories, mean_log_likelihoods
from tinystories.generation.generate import generate_story
from tinystories.generation.presets import preset_of
from tinystories.generation.prompts import encode_prompt
from tinystories.runs.builtin_model import model_path
from tinystories.runs.loading import load_model
from tinystories.text.faults import RULES, find_faults
from tinystories.utils.console import print_any_character
from tinystories.utils.errors import UserError


TIMED = 10  # stories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=model_path, help="run folder, model id on the Hub, or builtin")
    parser.add_argument("--best-of", type=int, default=8, help="stories per prompt (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="number of prompts (default: %(default)s)")
    parser.add_argument("--preset", help="sampling preset (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--scorer", type=model_path, help="another model, for bits per byte (default: none)")
    parser.add_argument("--train-corpus", help="training stories (default: those of the recipe, if they are here)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()

    model, tokenizer = load_model(options.model)
    preset = options.preset or preset_of(model.generation_config.to_dict()) or "balanced"
    prompts = list(islice(cycle(PROMPTS), options.samples))
    each = [prompt for prompt in prompts for _ in range(options.best_of)]
    stories = generate_stories(
        model, tokenizer, each, preset=preset, seed=options.seed, batch_size=4 * options.best_of
    )
    chosen = choices(model, tokenizer, prompts, stories, options.best_of)
    seconds = timings(model, tokenizer, prompts[:TIMED], options.best_of, preset)
    del model

    figures = {name: used(chosen[name]) for name in chosen}
    others = {name: unused(chosen[name], options) for name in chosen}
    print(f"\n{describe_machine()}; {options.model}, preset {preset}, {options.samples} prompts, seed {options.seed}")
    for title, table in (("used for the choice", figures), ("not used for the choice", others)):
        print(f"\n{title}")
        print(f"{'':38}" + "".join(f"{name:>26}" for name in table))
        for key in next(iter(table.values())):
            print(f"{key:38}" + "".join(f"{shown(key, table[name][key]):>26}" for name in table))
    print(
        f"\nseconds per story: {seconds['one']:.2f} for one, {seconds['best']:.2f} for the best of {options.best_of}"
    )
    save_json(options.json, preset=preset, used=figures, unused=others, seconds=seconds)


def choices(model, tokenizer, prompts: list[str], stories: list[GeneratedStory], number: int) -> dict[str, list]:
    """For each prompt, the story that each rule chooses among `number`."""
    chosen: dict[str, list] = {"one": [], f"best of {number}": [], f"most probable of {number}": []}
    one, best, probable = chosen.values()
    for place, prompt in enumerate(prompts):
        group = stories[place * number : (place + 1) * number]
        faults = [len(find_faults(story.text, story.ended)) for story in group]
        likelihoods = mean_log_likelihoods(model, encode_prompt(tokenizer, prompt), [story.ids for story in group])
        one.append(group[0])
        best.append(group[best_first(faults, likelihoods)[0]])
        probable.append(group[int(np.argmax(likelihoods))])
    return chosen


def timings(model, tokenizer, prompts: list[str], number: int, preset: str) -> dict[str, float]:
    """Seconds per story, one at a time and as the best of several."""
    began = time.perf_counter()
    for prompt in prompts:
        generate_story(model, tokenizer, prompt, preset=preset, seed=1)
    one = time.perf_counter()
    for prompt in prompts:
        best_stories(model, tokenizer, prompt, best_of=number, preset=preset, seed=1, progress=False)
    return {"one": (one - began) / len(prompts), "best": (time.perf_counter() - one) / len(prompts)}


def used(stories: list[GeneratedStory]) -> dict[str, Interval]:
    """Rates of faults, each of which counts for the choice."""
    rates = fault_rates([story.text for story in stories], [story.ended for story in stories])
    return {key.replace("_", " "): rates[key] for key in (*RULES, "faulty_stories")}


def unused(stories: list[GeneratedStory], options: argparse.Namespace) -> dict[str, Interval]:
    texts = [story.completion for story in stories]
    articles, repeated = article_statistics(texts), repetition(texts)
    different = diversity([story.text for story in stories])
    found = {}
    if options.scorer:
        found["bits per byte, another model"] = scored(stories, options.scorer)
    try:
        _, training = TrainingStories(options.train_corpus, {}).of(options.model)
        known = vocabulary([*training, *PROMPTS])
        found["words that no training story has"] = out_of_vocabulary_rate(texts, known)
    except UserError as error:
        print(f"Unknown words are not measured: {error}")
    return found | {
        "omitted articles": articles["article_omission"],
        "wrong a or an": articles["wrong_a_or_an"],
        "repeated 4-grams": repeated["repeated_4grams"],
        "4-grams shared with another story": different["shared_4grams"],
        "distinct words / words": Interval(repeated["distinct_1"], np.nan, np.nan),
        "words per story": ratio_interval([len(words(text)) for text in texts], np.ones(len(texts))),
    }


def scored(stories: list[GeneratedStory], path: str) -> Interval:
    """Bits per byte of the completions after their prompts, under another model."""
    model, tokenizer = load_model(path)
    whole = score_stories(model, tokenizer, [story.text for story in stories], progress=False)
    prompts = score_stories(model, tokenizer, [story.prompt for story in stories], progress=False)
    return bits_per_byte_interval(whole.nats - prompts.nats, whole.bytes - prompts.bytes)


def shown(key: str, figure: Interval) -> str:
    style = {"bits per byte, another model": "{:.3f}", "words per story": "{:.0f}"}.get(key, "{:.1%}")
    value, low, high = (style.format(each) for each in figure)
    return value if np.isnan(figure.low) else f"{value} ({low} to {high})"


if __name__ == "__main__":
    print_any_character()
    main()
