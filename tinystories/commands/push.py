"""`tinystories push`: publish a run on the Hub."""

import argparse
import sys

from ..runs.builtin_model import model_path
from ..utils.paths import expand_user
from .arguments import comma_separated


EXAMPLES = """
tinystories push runs/quickstart --repo-id you/quickstart --dry-run
tinystories push runs/quickstart --repo-id you/quickstart --license mit
tinystories push runs/quickstart --repo-id you/quickstart --include llama,gguf,onnx --space
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Build a release from a run, upload it in one commit, download it in a clean environment, and compare the "
        "download with the run. The exit status is 1 if they differ."
    )
    parser.add_argument("model", type=model_path, help="run folder or checkpoint folder")
    parser.add_argument(
        "--repo-id", required=True, metavar="USER/NAME", help="repository to push to; created if it does not exist"
    )
    parser.add_argument(
        "--include",
        type=comma_separated,
        default=(),
        metavar="FORMATS",
        help="additional formats, such as llama,gguf,onnx; llama is a stock transformers architecture (default: none)",
    )
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--revision", metavar="BRANCH", help="existing branch to push to (default: main)")
    parser.add_argument("--dry-run", action="store_true", help="build and check everything locally; upload nothing")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=expand_user,
        help="keep the built release in this new folder (default: it is deleted)",
    )
    parser.add_argument("--checkpoints", action="store_true", help="also push each checkpoint, as a branch step-N")
    parser.add_argument("--space", action="store_true", help="also create a demo Space of the same name")
    parser.add_argument("--message", help="commit message (default: Release of RUN)")
    parser.add_argument(
        "--license", metavar="ID", help="licence of the model for its card, such as mit (default: none)"
    )


def run(options: argparse.Namespace) -> int:
    from ..hub.upload import push

    problems = push(
        options.model,
        options.repo_id,
        include=options.include,
        private=options.private,
        revision=options.revision,
        dry_run=options.dry_run,
        out=options.out,
        with_checkpoints=options.checkpoints,
        space=options.space,
        message=options.message,
        license=options.license,
    )
    for problem in problems:
        print(f"tinystories: {problem}", file=sys.stderr)
    return 1 if problems else 0
