"""`tinystories doctor`: check stories, a recipe, a run or a model."""

import argparse
import dataclasses
import json
import sys

from ..runs.builtin_model import model_path
from ..utils.console import counted
from ..utils.paths import expand_user
from .arguments import add_reading_arguments, number, reading_options


EXAMPLES = """
tinystories doctor my_stories/ --clean my_stories_clean/        # stories
tinystories doctor tinystories-3m --corpus my_stories/ --quick  # a recipe
tinystories doctor runs/quickstart                              # a trained model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check a recipe, a run, a model, a tokenizer or stories. Prints one line per finding (ok, error, inconclusive "
        "or note) with figures and advice. The exit status is 1 if there is an error."
    )
    parser.add_argument(
        "target",
        type=model_path,
        help="recipe (file or name), run folder or checkpoint, any causal language model, file that `import` can read "
        "(.pth, .bin), tokenizer folder, or stories",
    )
    parser.add_argument(
        "--corpus", type=expand_user, help="stories to check and to evaluate the model on (default: the recipe's)"
    )
    add_reading_arguments(parser, default="the recipe's")
    parser.add_argument(
        "--tokenizer", metavar="PATH", type=expand_user, help="tokenizer to use (default: the target's)"
    )
    parser.add_argument(
        "--limit", type=number(int, 1), help="maximum number of stories to check, evenly spaced (default: 2000)"
    )
    parser.add_argument("--quick", action="store_true", help="do not time training steps, and score fewer stories")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="treat notes about text quality, and everything that --clean would change, as errors",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--clean",
        metavar="OUT",
        type=expand_user,
        help="also write a cleaned copy of the stories to this folder (default: none)",
    )


def run(options: argparse.Namespace) -> int:
    from transformers.utils import logging

    from ..checks import LIMIT, examine, has_error, report_lines

    logging.disable_progress_bar()
    findings = examine(
        options.target,
        corpus=options.corpus,
        tokenizer=options.tokenizer,
        limit=LIMIT if options.limit is None else options.limit,
        quick=options.quick,
        strict=options.strict,
        cleaned=_clean(options) if options.clean else None,
        **reading_options(options),
    )
    if options.json:
        print(json.dumps(list(map(dataclasses.asdict, findings)), ensure_ascii=False, indent=2))
    else:
        print("\n".join(report_lines(findings)))
    return 1 if has_error(findings) else 0


def _clean(options: argparse.Namespace) -> dict:
    from ..checks import corpus_of, special_tokens_of
    from ..data.cleaning import write_clean

    corpus = corpus_of(options.target, options.corpus, **reading_options(options))
    special = special_tokens_of(options.target, options.tokenizer)
    cleaned = write_clean(corpus, options.clean, special_tokens=special)
    for split, counts in cleaned.items():
        print(
            f"{options.clean}, {split}: kept {counts['kept']:,} of {counted(counts['stories'], 'story')}; "
            f"repaired: {_by_kind(counts['repaired'])}; dropped: {_by_kind(counts['dropped'])}",
            file=sys.stderr if options.json else sys.stdout,
        )
    return cleaned


def _by_kind(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items()) or "none"
