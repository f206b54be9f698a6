"""Write a subset of TinyStories of the size that the published figures were measured on.

    python benchmarks/subset.py FOLDER

The script reads roneneldan/TinyStories from the Hub, and writes 16,054 training and 3,613 validation stories to
`train.parquet` and `validation.parquet`. Validation stories that share a sequence of 20 words with a training story
are left out.
"""

import argparse
from pathlib import Path

from datasets import Dataset

from tinystories.data.corpus import load_corpus
from tinystories.utils.console import print_any_character


TRAIN, VALIDATION = 16_054, 3_613
WORDS = 20


def runs_of_words(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write the two files to")
    parser.add_argument(
        "--dataset",
        default="roneneldan/TinyStories",
        help="dataset on the Hub, or local stories (default: roneneldan/TinyStories)",
    )
    folder, dataset = (args := parser.parse_args()).folder, args.dataset
    corpus = load_corpus(dataset, max_stories=TRAIN, max_validation_stories=2 * VALIDATION)
    seen = set().union(*(runs_of_words(text) for text in corpus.train["text"]))
    held_out = [text for text in corpus.validation["text"] if seen.isdisjoint(runs_of_words(text))][:VALIDATION]
    folder.mkdir(parents=True, exist_ok=True)
    corpus.train.select_columns("text").to_parquet(folder / "train.parquet")
    Dataset.from_dict({"text": held_out}).to_parquet(folder / "validation.parquet")
    print(f"{folder}: {len(corpus.train):,} training stories, {len(held_out):,} validation stories")


if __name__ == "__main__":
    print_any_character()
    main()
