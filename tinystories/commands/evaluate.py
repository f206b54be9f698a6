"""`tinystories evaluate`: measure models and write a report."""

import argparse
import shlex

from ..runs.builtin_model import model_path
from ..utils.errors import UserError
from ..utils.paths import expand_user
from .arguments import add_reading_arguments, comma_separated, number, reading_options, seed


EXAMPLES = """
tinystories evaluate runs/quickstart --quick
tinystories evaluate runs/quickstart openai-community/gpt2 --corpus held_out.jsonl
tinystories evaluate runs/quickstart --presets plain,greedy --out report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure bits per byte, minimal pairs, coherence and generated stories of one or more causal language models, "
        "and write report.json and report.html. The exit status is 2 if a model could not be evaluated."
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="model",
        type=model_path,
        help="run folder, checkpoint folder, model id on the Hub, or builtin",
    )
    parser.add_argument(
        "--corpus", type=expand_user, help="held-out stories (default: the run's validation split, or `sample`)"
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--train-corpus",
        type=expand_user,
        help="training stories, to detect copied text (default: those of the recipe, if they are on this machine)",
    )
    parser.add_argument(
        "--out",
        type=expand_user,
        help="folder for the report (default: the run folder of a single run, otherwise `evaluation`)",
    )
    parser.add_argument(
        "--limit",
        type=number(int, 1),
        help="at most this many stories, pairs and probes per kind, and prompts (default: all stories, 500 pairs and "
        "probes, all prompts)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="quick evaluation: 100 stories, 50 pairs and probes per kind, 5 prompts, 20 stories without a "
        "prompt, the "
        "model's own preset",
    )
    parser.add_argument(
        "--presets",
        type=comma_separated,
        help="sampling presets, such as balanced,plain,greedy; the summary shows the first (default: the model's own "
        "preset, then all others except greedy)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--judge-url",
        help="OpenAI-compatible endpoint of an LLM that grades the stories, which may cost money (default: none)",
    )
    parser.add_argument(
        "--judge-model", help="model name at that endpoint; the key is read from OPENAI_API_KEY (default: none)"
    )
    parser.add_argument(
        "--dump-pairs",
        metavar="FILE",
        type=expand_user,
        help="write the minimal pairs and coherence probes to this .tsv or .jsonl file (default: none)",
    )


def run(options: argparse.Namespace) -> int:
    from transformers.utils import logging

    from ..evaluation.evaluate import evaluate
    from ..evaluation.judge import Judge
    from ..evaluation.report import HTML, report_folder, terminal_table, write_report

    logging.disable_progress_bar()
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("--judge-url and --judge-model must be used together.")
    folder = report_folder(options.out, options.models)
    report = evaluate(
        options.models,
        corpus=options.corpus,
        **reading_options(options),
        train_corpus=options.train_corpus,
        limit=options.limit,
        quick=options.quick,
        presets=options.presets,
        seed=options.seed,
        judge=Judge(options.judge_url, options.judge_model) if options.judge_url else None,
        dump_pairs=options.dump_pairs,
        command=shlex.join(["tinystories", *options.arguments]),
        save=lambda report: write_report(report, folder) if report["models"] else None,
    )
    if report["models"]:
        print(terminal_table(report))
        print(f"\nReport: {folder / HTML}")
    return 2 if report["failed"] else 0
