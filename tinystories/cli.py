"""`tinystories <verb>`. Only the module of the chosen verb is imported, so that `--help` is fast."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from keyword import iskeyword
from typing import NoReturn

from . import __version__
from .commands.arguments import add_examples
from .utils.console import is_text, one_line, print_any_character
from .utils.errors import UserError, is_user_error
from .utils.progress import spare_log_files


# Without a limit, the threads of PyTorch that wait for each other occupy their cores (GNU's OpenMP spins for about a
# millisecond or more). With another process on two cores, training then made no step in 30 s; with this count, 4.5
# steps per second.
SPIN_COUNT = "1000"

VERBS = {
    "train": "train a model with a recipe, or on stories for a given time",
    "finetune": "fine-tune a trained model on other stories",
    "recipes": "list the installed recipes, or print one",
    "annotate": "derive words, a summary and features of each story by rule",
    "tokenizer": "train a tokenizer, or prune one to its most frequent tokens",
    "generate": "complete a prompt",
    "export": "convert a model to a stock Llama or Phi-3, GGUF or ONNX",
    "import": "convert a model trained with other code",
    "merge": "merge a LoRA adapter into its base model",
    "doctor": "check stories, a recipe, a run or a model, and explain what is wrong",
    "push": "publish a run on the Hub, with a model card",
    "evaluate": "measure models and write a report",
    "serve": "serve a model over HTTP, with a demo page",
}

EXAMPLES = """
tinystories generate "Once upon a time"
tinystories train quickstart
tinystories doctor my_stories/
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit status: 0, 1 if `doctor` or `push` finds an error, 2 for a user error, 130 after
    an interrupt."""
    print_any_character()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # has an effect only before torch is imported
    spare_log_files()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with _log_to_stderr():
            options = parse(arguments)
            return options.run(options) or 0
    except ValueError as error:
        if not is_user_error(error):
            raise
        print(f"tinystories: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\ntinystories: {' '.join(['stopped.', *map(str, interrupt.args)])}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        where = f": {one_line(error.filename)}" if error.filename else ""
        print(f"tinystories: a file could not be read or written: {error.strerror}{where}.", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line, as the verbs report their errors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with the verb's `run`.

    Raises:
        UserError: for an unknown or invalid argument.
    """
    for argument in arguments:
        if not is_text(argument):
            raise UserError(f"The argument {argument!a} is not valid UTF-8.")
    parser = _Parser(
        prog="tinystories", description="Train a small language model that writes children's stories, and use it."
    )
    parser.add_argument("--version", action="version", version=f"tinystories {__version__}")
    add_examples(parser, EXAMPLES)
    verbs = parser.add_subparsers(title="commands", required=True, metavar="<command>", dest="verb")
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if arguments[:1] == [name]:
            module = import_module(f".commands.{name}{'_' if iskeyword(name) else ''}", __package__)
            module.add_arguments(verb)
            add_examples(verb, module.EXAMPLES)
            verb.set_defaults(run=module.run, take_rest=getattr(module, "take_rest", None))
    options, extra = parser.parse_known_args([_with_dashes(argument) for argument in arguments])
    if extra and options.take_rest is not None:
        extra = options.take_rest(options, extra)
    if extra:
        raise UserError(f"unrecognized arguments: {' '.join(extra)} (see {parser.prog} {options.verb} --help)")
    options.arguments = arguments
    return options


def _with_dashes(argument: str) -> str:
    """`--top_k` as `--top-k`: options may be written with underscores, as recipe keys are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show the package's log on stderr; with several training processes, only that of the first."""
    logger, handler = logging.getLogger(__package__), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
