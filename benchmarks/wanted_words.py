"""How often stories use the words that they are asked for, by models with and without a template.

    tinystories annotate stories/ annotated/
    tinystories finetune annotated/ --template 'Words: {words}\\nStory:' --minutes 5 --output_dir runs/words
    python benchmarks/wanted_words.py builtin runs/words --corpus annotated/validation.parquet

The words are those of annotated validation stories, three of each. A model that was trained with a template gets them
by its template. A model without one gets no words, so that its rate is that of chance, and then, in another row, the
sentence "This is a story about WORDS." in front of the story. With --best-of, the story with the fewest faults is
chosen among several for the same words; a word that is not used is a fault. Regular forms count as used ("dragons",
"stopped").
"""

import argparse

import numpy as np
import pyarrow.parquet as pq
from figures import describe_machine, save_json

from tinystories.evaluation.intervals import Interval, ratio_interval
from tinystories.generation.batch import GeneratedStory, generate_stories
from tinystories.generation.best_of import best_first, missing_word_faults
from tinystories.generation.prompts import instruction
from tinystories.runs.builtin_model import model_path
from tinystories.runs.loading import load_model
from tinystories.story_template import StoryTemplate
from tinystories.text.faults import find_faults
from tinystories.text.wanted_words import missing_words, split_words
from tinystories.utils.console import print_any_character


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=model_path, help="run folders, model ids on the Hub, or builtin")
    parser.add_argument("--corpus", required=True, help="Parquet file with the column words")
    parser.add_argument("--samples", type=int, default=100, help="number of requests (default: %(default)s)")
    parser.add_argument("--best-of", type=int, default=8, help="stories per request (default: %(default)s)")
    parser.add_argument("--begin", default="Once upon a time", help="beginning of each story (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, help="tokens per story (default: the remaining context length)")
    parser.add_argument("--preset", help="sampling preset (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()

    asked = [words for words in pq.read_table(options.corpus, columns=["words"])["words"].to_pylist() if words]
    asked = asked[:: max(1, len(asked) // options.samples)][: options.samples]
    rows: dict[str, dict[str, Interval]] = {}
    for path in options.models:
        model, tokenizer = load_model(path)
        if StoryTemplate.of_tokenizer(tokenizer) is not None:
            fronts = {"template": [instruction(tokenizer, {"words": words}) for words in asked]}
        else:
            about = [f"This is a story about {' and '.join(split_words(words))}.\n" for words in asked]
            fronts = {"no words": [""] * len(asked), "sentence": about}
        for kind, texts in fronts.items():
            stories = generate(model, tokenizer, texts, options)
            for number in (1, options.best_of):
                chosen = choose(stories, asked, options.best_of, number)
                name = f"{path.rstrip('/').rsplit('/', 1)[-1]}, {kind}" + (f", best of {number}" if number > 1 else "")
                rows[name] = figures(chosen, asked)
    print(f"{describe_machine()}; {len(asked)} requests of {len(split_words(asked[0]))} words, seed {options.seed}")
    names = list(next(iter(rows.values())))
    print(f"\n{'':42}" + "".join(f"{name:>26}" for name in names))
    for name, row in rows.items():
        print(f"{name:42}" + "".join(f"{shown(row[key]):>26}" for key in names))
    save_json(options.json, requests=asked, figures=rows)


def generate(model, tokenizer, fronts: list[str], options: argparse.Namespace) -> list[GeneratedStory]:
    """For each text in front of a story, `--best-of` stories without that text."""
    prompts = [front + options.begin for front in fronts for _ in range(options.best_of)]
    settings = {"preset": options.preset, "seed": options.seed, "max_new_tokens": options.max_new_tokens}
    stories = generate_stories(model, tokenizer, prompts, batch_size=4 * options.best_of, **settings)
    lengths = [len(front) for front in fronts for _ in range(options.best_of)]
    return [
        GeneratedStory(options.begin, story.text[length:], story.ended, story.new_tokens, story.ids)
        for story, length in zip(stories, lengths, strict=True)
    ]


def choose(stories: list[GeneratedStory], asked: list[str], each: int, number: int) -> list[GeneratedStory]:
    """The best of the first `number` stories of each request, of which there are `each`."""
    chosen = []
    for place, words in enumerate(asked):
        group = stories[place * each :][:number]
        faults = [len(find_faults(one.text, one.ended) + missing_word_faults(one.text, words)) for one in group]
        chosen.append(group[best_first(faults, [0.0] * len(group))[0]])
    return chosen


def figures(stories: list[GeneratedStory], asked: list[str]) -> dict[str, Interval]:
    ones = np.ones(len(stories))
    missing = [len(missing_words(story.text, words)) for story, words in zip(stories, asked, strict=True)]
    wanted = [len(split_words(words)) for words in asked]
    faulty = [bool(find_faults(story.text, story.ended)) for story in stories]
    return {
        "words used": ratio_interval(np.subtract(wanted, missing), np.array(wanted)),
        "stories with all words": ratio_interval(np.equal(missing, 0), ones),
        "stories with faults": ratio_interval(np.array(faulty), ones),
    }


def shown(figure: Interval) -> str:
    return "{:.0%} ({:.0%} to {:.0%})".format(*figure)


if __name__ == "__main__":
    print_any_character()
    main()
