"""`tinystories generate`: complete a prompt, streaming the text."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..runs.builtin_model import BUILTIN, model_path
from ..runs.download import RUNS, may_be_hub_id
from ..runs.run_folder import require_run
from ..utils.errors import UserError
from .arguments import LARGEST_SEED, number, seed


ENGINES = ("transformers", "llama.cpp")
MOST_STORIES = 1_000
FIELDS = ("words", "summary", "features")


EXAMPLES = """
tinystories generate "Once upon a time"
tinystories generate runs/quickstart "The happy cat" -n 3 --best-of 8 --preset creative --seed 1
tinystories generate runs/words --words "dragon, key, rain" --max-new-tokens 200
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    preset = "default: the preset's"
    parser.add_argument(
        "model",
        nargs="?",
        type=model_path,
        help="run folder, model id on the Hub, or builtin, the model that is installed with the package (default: "
        "builtin)",
    )
    parser.add_argument(
        "prompt",
        help='text to complete, such as "Once upon a time"; may be left out if words or other fields are given',
    )
    parser.add_argument(
        "--words",
        help='words for the story, such as "dragon, key, rain"; this option and the next three need a model that was '
        "trained with a template (default: none)",
    )
    parser.add_argument("--summary", help="what the story is about (default: none)")
    parser.add_argument("--features", help='such as "dialogue, happy ending" (default: none)')
    parser.add_argument(
        "--field",
        action="append",
        metavar="NAME=VALUE",
        help="another field of the model's template; may be repeated (default: none)",
    )
    parser.add_argument(
        "--preset",
        help="sampling preset: balanced, conservative, creative, plain or greedy (default: the model's "
        "generation_config.json)",
    )
    parser.add_argument("--temperature", type=float, help=f"from 0 to 2; 0 is greedy decoding ({preset})")
    parser.add_argument("--top-p", type=float, help=f"nucleus sampling: above 0, at most 1; 1 disables it ({preset})")
    parser.add_argument("--top-k", type=int, help=f"sample from the k most likely tokens; 0 disables it ({preset})")
    parser.add_argument("--repetition-penalty", type=float, help=f"from 1 to 2; 1 disables it ({preset})")
    parser.add_argument(
        "-n",
        "--number",
        type=number(int, 1, MOST_STORIES),
        default=1,
        help="number of stories; with --seed, the second has the next seed, and so on (default: 1)",
    )
    parser.add_argument(
        "--best-of",
        metavar="N",
        type=number(int, 1, MOST_STORIES),
        help="generate N stories and print the one with the fewest faults (a name never introduced, a missing ending "
        "and the like), or the most probable of those with equally few; with -n, print the best of the N "
        "(default: off)",
    )
    parser.add_argument("--seed", type=seed, help="makes sampling reproducible on the same machine (default: random)")
    parser.add_argument(
        "--max-new-tokens",
        type=number(int, 1),
        help="maximum number of tokens to generate (default: the remaining context length)",
    )
    parser.add_argument(
        "--post-process",
        action="store_true",
        help="correct spacing, capitals and final punctuation; the text is printed when it is complete",
    )
    parser.add_argument(
        "--engine",
        default="transformers",
        help="transformers, or llama.cpp, which needs the extra `llamacpp` (default: transformers)",
    )
    parser.add_argument(
        "--dtype",
        help="transformers: int8 for faster decoding on a CPU (default: as saved); llama.cpp: f32, f16, bf16 or q8_0 "
        "(default: f16)",
    )


def take_rest(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """Take the prompt of `generate RUN --seed 1 PROMPT`, where argparse assigns RUN to the prompt.

    Args:
        rest: arguments that were not recognised.

    Returns:
        Those that still are not.
    """
    if any(argument.startswith("-") for argument in rest):
        return rest
    if options.model is None and len(rest) == 1:
        options.model, options.prompt = model_path(options.prompt), rest[0]
    elif rest:
        raise UserError(
            f"A prompt of several words must be quoted, so {rest[0]!r} is not expected: "
            f'tinystories generate RUN "Once upon a time".'
        )
    return []


def run(options: argparse.Namespace) -> None:
    fields = _fields(options)
    if options.model is None and fields and _may_be_model(options.prompt):
        options.model, options.prompt = model_path(options.prompt), ""
    if options.model is None:
        _require_prompt(options.prompt)
        options.model = model_path(BUILTIN)
    from ..generation.presets import SAMPLING, check_preset, check_sampling, is_greedy

    if options.preset is not None:
        check_preset(options.preset)
    given = {name: getattr(options, name) for name in SAMPLING}
    sampling = {name: value for name, value in given.items() if value is not None}
    check_sampling(options.preset, sampling)
    if options.engine not in ENGINES:
        raise UserError(f"--engine {options.engine} is not supported: choose {' or '.join(ENGINES)}.")
    if fields and options.engine != "transformers":
        raise UserError(f"--engine {options.engine} takes no words or other fields: use --engine transformers.")
    require_run(options.model)
    if options.best_of == options.number == 1:
        options.best_of = None
    several = "--best-of" if options.best_of else "-n" if options.number > 1 else None
    if several and is_greedy(options.preset, sampling):
        raise UserError(
            f"Greedy decoding gives the same story each time: remove {several}, or choose another --preset or a "
            "higher --temperature."
        )
    if options.best_of and options.best_of < options.number:
        raise UserError(f"--best-of must be at least {options.number}, the number of stories, not {options.best_of}.")
    if options.best_of and options.engine != "transformers":
        raise UserError(f"--best-of needs the engine transformers: remove --engine {options.engine}.")
    if options.best_of:
        return _print_best(options, sampling, fields)
    settings = {
        "preset": options.preset,
        "sampling": sampling,
        "max_new_tokens": options.max_new_tokens,
        "stream": not options.post_process,
        **({"fields": fields} if fields else {}),
    }
    load = _with_llama_cpp if options.engine == "llama.cpp" else _with_transformers
    generate = load(options, settings)
    for story in range(options.number):
        _print_heading(story, options.number)
        text = generate(seed=None if options.seed is None else (options.seed + story) % (LARGEST_SEED + 1))
        if options.post_process:
            _print_processed(text)


def _print_heading(story: int, number: int) -> None:
    if number > 1:
        print(f"{chr(10) if story else ''}--- story {story + 1}", flush=True)


def _print_processed(text: str) -> None:
    from ..generation.postprocess import post_process

    print(post_process(text))


def _print_best(options: argparse.Namespace, sampling: dict[str, float], fields: dict[str, str]) -> None:
    """Print the best of several stories, and on stderr how they were chosen."""
    from ..generation.best_of import best_stories

    model, tokenizer = _load(options)
    best = best_stories(
        model,
        tokenizer,
        options.prompt,
        best_of=options.best_of,
        n=options.number,
        preset=options.preset,
        sampling=sampling,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        fields=fields,
        progress=sys.stderr.isatty(),
    )
    for place, story in enumerate(best.stories):
        _print_heading(place, options.number)
        if options.post_process:
            _print_processed(story.text)
        else:
            print(story.text)
    sys.stdout.flush()
    print(best, file=sys.stderr)


def _fields(options: argparse.Namespace) -> dict[str, str]:
    """The fields that were given, by name."""
    fields = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    for given in options.field or ():
        name, equals, value = given.partition("=")
        if not equals or not name:
            raise UserError(f"--field must be NAME=VALUE, not {given!r}.")
        if name in fields:
            raise UserError(f"The field {name} is given twice: remove one of its values.")
        fields[name] = value
    return fields


def _may_be_model(text: str) -> bool:
    if not text:  # an empty prompt; as a path, it is the current folder
        return False
    return Path(text).is_dir() or may_be_hub_id(text) or text.startswith(f"{RUNS}/") or text == BUILTIN


def _require_prompt(text: str) -> None:
    """Raise `UserError` for the name of a model where only a prompt is given."""
    if _may_be_model(text):
        raise UserError(f'Specify a prompt, too: tinystories generate {text} "Once upon a time".')


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    from ..generation.presets import check_dtype

    check_dtype(options.dtype)
    from transformers.utils.logging import disable_progress_bar

    from ..runs.loading import load_model

    disable_progress_bar()
    return load_model(options.model, options.dtype)


def _with_transformers(options: argparse.Namespace, settings: dict[str, Any]) -> Callable[..., str]:
    model, tokenizer = _load(options)
    from ..generation.generate import generate_story
    from ..generation.native import use_native_decoding

    if options.dtype is None:  # once for all stories
        use_native_decoding(model, warn=False)
    return partial(generate_story, model, tokenizer, options.prompt, **settings)


def _with_llama_cpp(options: argparse.Namespace, settings: dict[str, Any]) -> Callable[..., str]:
    from ..export.gguf_cache import cached_gguf, model_folder
    from ..generation.llamacpp import generate_story, require_packages

    require_packages()
    folder = model_folder(options.model)
    gguf = partial(cached_gguf, folder, options.dtype or "f16")
    return partial(generate_story, folder, options.prompt, gguf=gguf, **settings)
