"""Rates of generated stories in which a model changes the name of a character or makes up words.

    python benchmarks/consistency.py runs/quickstart
    python benchmarks/consistency.py runs/quickstart --show 12

25 stories are generated for each of four prompts, with the preset of the model and a fixed seed, until EOS or until
the context is full. A story is consistent if it mentions no first name that it has not introduced
(`tinystories.text.characters`). A word is made up if it occurs neither in the training stories nor in the
prompts.
"""

import argparse

from tinystories.evaluation.intervals import wilson_interval
from tinystories.evaluation.stories import TrainingStories
from tinystories.evaluation.text_statistics import vocabulary, words
from tinystories.generation.batch import generate_stories
from tinystories.generation.presets import preset_of
from tinystories.runs.loading import load_model
from tinystories.text.characters import unintroduced_names
from tinystories.utils.console import print_any_character


PROMPTS = (
    "Once upon a time there was",
    "One day, a little girl named Lily",
    "Tom and his friend",
    "One morning, a small bird",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("--samples", type=int, default=25, help="stories per prompt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N stories (default: none)")
    options = parser.parse_args()

    model, tokenizer = load_model(options.run)
    preset = preset_of(model.generation_config.to_dict()) or "balanced"
    prompts = [prompt for _ in range(options.samples) for prompt in PROMPTS]
    stories = generate_stories(model, tokenizer, prompts, preset=preset, seed=options.seed, batch_size=50)
    _, training = TrainingStories(None, {}).of(options.run)
    known = vocabulary([*training, *PROMPTS])

    names = [unintroduced_names(story.text) for story in stories]
    made_up = [sorted({word for word in words(story.text) if word not in known}) for story in stories]
    for story, missing, unknown in list(zip(stories, names, made_up, strict=True))[: options.show]:
        print(story.text)
        print(f"    -- names not introduced: {missing or 'none'}; made-up words: {unknown or 'none'}\n")
    count = len(stories)
    for label, lists in (("a name that was not introduced", names), ("a made-up word", made_up)):
        found = [each for each in lists if each]
        low, high = wilson_interval(len(found), count)[1:]
        print(f"{len(found)} of {count} stories with {label} (95% interval {low:.1%} to {high:.1%}): {found[:20]}")
    ended = sum(story.ended for story in stories)
    print(f"{ended} of {count} stories end with EOS; preset {preset}, seed {options.seed}")


if __name__ == "__main__":
    print_any_character()
    main()
