"""`tinystories annotate`: derive words, a summary and features of each story."""

import argparse

from ..data.sources.files import hub_dataset
from ..utils.console import counted
from ..utils.paths import expand_user
from .arguments import add_reading_arguments, number, reading_options


EXAMPLES = """
tinystories annotate my_stories/ my_stories_annotated/
tinystories annotate my_stories.txt annotated.jsonl
tinystories annotate roneneldan/TinyStories annotated/ --format jsonl --max-stories 100000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a copy of a corpus with the columns `words` (three rare words of each story), `summary` (its first "
        "sentence) and `features` (dialogue, moral, sad ending, happy ending), derived by rule."
    )
    parser.add_argument(
        "corpus", type=expand_user, help="`sample`, a dataset id on the Hub, or a file or folder of stories"
    )
    parser.add_argument(
        "out",
        type=expand_user,
        help="new folder, which gets a file of training stories and one of validation stories; or, for a corpus "
        "without "
        "validation stories, a new file that ends in .parquet or .jsonl",
    )
    parser.add_argument(
        "--format", default="parquet", help="format of the files in a folder: parquet or jsonl (default: parquet)"
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--max-stories", type=number(int, 1), help="use at most this many training stories (default: all)"
    )


def run(options: argparse.Namespace) -> None:
    hub_dataset(options.corpus)
    from ..text.annotate import FEATURES
    from ..text.annotated import write_annotated

    reading = reading_options(options)
    reading |= {"text_split": reading.pop("split"), "max_stories": options.max_stories}
    for split, counts in write_annotated(options.corpus, options.out, file_format=options.format, **reading).items():
        number = counts["stories"]
        rates = ", ".join(f"{name} {counts[name] / number:.0%}" for name in FEATURES)
        print(f"{options.out}, {split}: {counted(number, 'story')}; {rates}")
        if counts["without words"]:
            print(f"note: {counted(counts['without words'], 'story')} without rare words")
