"""`tinystories <verb>`. Each verb imports what it needs when it runs, so that `--help` answers at once."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from . import __version__
from .commands.train import describe_keys
from .data.sources import hub_dataset
from .runs.run_folder import require_run
from .utils.console import is_text, one_line, print_any_character
from .utils.errors import UserError, is_user_error
from .utils.paths import expand_user, output_folder


MOST = 2**31 - 1
MOST_AT_ONCE = 1024  # completions, each with a cache of its own
YEAR = 365 * 24 * 60 * 60


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit status: 0, 1 where `doctor` finds an error, 2 for a user's mistake, 130 where the
    user stopped it."""
    print_any_character()
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    is_training = arguments[:1] == ["train"]
    try:
        options, extra = _parse(parser, arguments)
        return options.run(options, extra) or 0
    except ValueError as error:
        if not is_user_error(error):
            raise
        print(f"tinystories: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = " The same command with --resume_from_checkpoint goes on from the last checkpoint."
        print(f"\ntinystories: stopped.{hint if is_training else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        where = one_line(error.filename or "while reading or writing")
        print(f"tinystories: {error.strerror}: {where}.", file=sys.stderr)
        return 2


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and for `train` the settings that override the recipe's.

    Raises:
        UserError: for an argument that cannot be understood.
    """
    for argument in arguments:
        if not is_text(argument):
            raise UserError(f"The argument {argument!a} is not valid UTF-8: type it again.")
    options, extra = parser.parse_known_args([_with_dashes(argument) for argument in arguments])
    if extra and options.run is not _train:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    options.arguments = arguments
    _show_log()
    return options, extra


class _Stderr(logging.StreamHandler):
    """Writes to the standard error of the moment, as `logging` itself does without a handler."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stderr


def _show_log() -> None:
    """Show what the package has to say of its input, such as which files were taken for which split.

    Of several processes that train together, the first one says it.
    """
    logger = logging.getLogger(__package__)
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, as those of the verbs themselves."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes a whole number between two others."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            range_ = f"at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number, {range_}, but is {text[:40]}")
        return value

    return whole_number


def _seconds(least: float) -> Callable[[str], float]:
    """The type of an option that takes a time in seconds, at least `least` and at most a year."""

    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= YEAR:
            raise argparse.ArgumentTypeError(
                f"must be a number of seconds from {least:g} to {YEAR}, but is {text[:40]}"
            )
        return value

    return seconds


def _with_dashes(argument: str) -> str:
    """Options may be spelt with underscores, as recipe keys are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _add_reading_options(verb: argparse.ArgumentParser, of: str | None = None) -> None:
    """The options that say how stories are read; where a recipe may say it, they are None unless they are given."""
    verb.add_argument(
        "--text-column", default=None if of else "text", help=f"column that holds the stories ({of or 'text'})"
    )
    verb.add_argument(
        "--split",
        default=None if of else "auto",
        help=f"where stories end in .txt and .md: auto, file, line, blank-lines or a marker ({of or 'auto'})",
    )
    verb.add_argument("--one-story-per-file", action="store_const", const="file", dest="split", help="--split file")
    verb.add_argument(
        "--skip-bad-rows",
        action="store_true",
        default=None if of else False,
        help="leave out rows that cannot be read, and say how many",
    )


def _reading_options(options: argparse.Namespace) -> dict:
    return {name: getattr(options, name) for name in ("text_column", "split", "skip_bad_rows")}


_SEED = _whole(0, 2**32 - 1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tinystories", description="Train a small language model that writes children's stories, and use it."
    )
    parser.add_argument("--version", action="version", version=f"tinystories {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="<verb>")

    verb = verbs.add_parser(
        "train",
        help="train a model from a recipe",
        description="Train a model from a recipe. Any key of the recipe, of TinyLlamaConfig or of TrainingArguments\n"
        "can follow as --key value, for example --learning_rate 1e-3 --corpus my_stories.jsonl.",
        epilog=describe_keys(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("recipe", type=expand_user, help="YAML file, such as configs/quickstart.yaml")
    verb.set_defaults(run=_train)

    verb = verbs.add_parser("tokenizer", help="train a tokenizer on a corpus, or cut one to its most used tokens")
    verb.add_argument(
        "corpus", type=expand_user, help="`sample`, a dataset id on the Hub, or a file or folder of stories"
    )
    verb.add_argument("out", type=expand_user, help="folder to write the tokenizer to")
    verb.add_argument(
        "--vocab-size", type=_whole(1, MOST), default=10_000, help="entries, special tokens included (10000)"
    )
    verb.add_argument(
        "--top-k-of", metavar="TOKENIZER", type=expand_user, help="cut this byte-level BPE instead of training one"
    )
    verb.add_argument("--model-max-length", type=_whole(1, MOST), default=512, help="longest input in tokens (512)")
    _add_reading_options(verb)
    verb.add_argument("--max-stories", type=_whole(1), help="use no more than this many")
    verb.set_defaults(run=_tokenizer)

    verb = verbs.add_parser("generate", help="generate a completion of a prompt")
    verb.add_argument("model", type=expand_user, help="run folder, or id of a model on the Hub")
    verb.add_argument("prompt", help='text to continue, such as "Once upon a time"')
    verb.add_argument(
        "--preset", help="balanced, conservative, creative, plain or greedy (the model's generation_config.json)"
    )
    verb.add_argument("--temperature", type=float, help="0 to 2; 0 is greedy decoding (that of the preset)")
    verb.add_argument("--top-p", type=float, help="above 0, at most 1; 1 is off (that of the preset)")
    verb.add_argument("--top-k", type=int, help="0 is off (that of the preset)")
    verb.add_argument("--repetition-penalty", type=float, help="1 to 2; 1 is off (that of the preset)")
    verb.add_argument("--seed", type=_SEED, help="the same seed generates the same text on the same machine")
    verb.add_argument(
        "--max-new-tokens", type=_whole(1), help="most tokens to generate (the remaining context length)"
    )
    verb.add_argument(
        "--post-process",
        action="store_true",
        help="clean spaces, capitals and full stops; the text is printed when it is complete",
    )
    verb.add_argument(
        "--engine", default="transformers", help="what computes: transformers, or llama.cpp (an extra) (transformers)"
    )
    verb.add_argument(
        "--dtype", help="weights: int8 for speed on a CPU (as saved); of llama.cpp f32, f16, bf16 or q8_0 (f16)"
    )
    verb.set_defaults(run=_generate)

    verb = verbs.add_parser(
        "export",
        help="write a model for people who do not run our code",
        description="Write a model as one of transformers' own, to be loaded without trust_remote_code, as a GGUF "
        "file for llama.cpp, or as ONNX for transformers.js. It is loaded back and compared before it is put in "
        "place.",
    )
    verb.add_argument("model", type=expand_user, help="run folder, or id of a model on the Hub")
    verb.add_argument("out", type=expand_user, help="folder to write to, new or empty; for gguf the name of the file")
    verb.add_argument("--to", help="gguf, onnx, llama or phi3 (llama where whole heads are rotated, else phi3)")
    verb.add_argument("--dtype", help="gguf: f32, f16, bf16 or q8_0 (f16); onnx: f32, f16 or q8 (f32)")
    verb.set_defaults(run=_export)

    verb = verbs.add_parser(
        "import",
        help="read a model that others trained",
        description="Read a WikiMini checkpoint (.pth), a model of llama2.c (.bin), or a Llama or Phi-3 of "
        "transformers, and write it as a TinyLlama. The folder is loaded back and compared before it is put in place.",
    )
    verb.add_argument("source", type=expand_user, help="file, folder, or id of a model on the Hub")
    verb.add_argument("out", type=expand_user, help="folder to write to, new or empty")
    verb.add_argument(
        "--tokenizer", metavar="PATH", type=expand_user, help="its tokenizer (beside the source, under its usual name)"
    )
    verb.set_defaults(run=_import)

    verb = verbs.add_parser(
        "doctor",
        help="check stories, a recipe, a run or a model, and say what is wrong and what to do",
        description="Check a recipe, a run, a model, a tokenizer or stories, and print one line per finding: ok, "
        "error, inconclusive or note, with figures and what to do. The exit status is 1 where there is an error.",
    )
    verb.add_argument(
        "target",
        type=expand_user,
        help="recipe (.yaml), run folder or checkpoint, any causal model, file that `import` reads (.pth, .bin), "
        "tokenizer folder, or stories",
    )
    verb.add_argument("--corpus", type=expand_user, help="stories to check and to measure on (those of the recipe)")
    _add_reading_options(verb, of="those of the recipe")
    verb.add_argument("--tokenizer", metavar="PATH", type=expand_user, help="its tokenizer (that of the target)")
    verb.add_argument("--limit", type=_whole(1), help="stories to check, spread over the corpus (2000)")
    verb.add_argument("--quick", action="store_true", help="measure no training steps, and score fewer stories")
    verb.add_argument(
        "--strict", action="store_true", help="warnings of text quality, and all that --clean changes, are errors"
    )
    verb.add_argument("--json", action="store_true", help="print the findings as JSON, and nothing else")
    verb.add_argument(
        "--clean", metavar="OUT", type=expand_user, help="also write a cleaned copy of the stories to this folder"
    )
    verb.set_defaults(run=_doctor)

    verb = verbs.add_parser(
        "push",
        help="publish a run on the Hub, with a model card",
        description="Build a release folder of a run, upload it in one commit, download it again in a new process and "
        "compare it with the run. The exit status is 1 where what comes back is not the run's model.",
    )
    verb.add_argument("model", type=expand_user, help="run folder or checkpoint folder")
    verb.add_argument("--repo-id", required=True, metavar="USER/NAME", help="where to; made if it is not there")
    verb.add_argument("--include", help="other forms beside the model, such as llama,gguf,onnx (llama: stock classes)")
    verb.add_argument("--private", action="store_true", help="make a new repo private")
    verb.add_argument("--revision", metavar="BRANCH", help="an existing branch to push to (main)")
    verb.add_argument("--dry-run", action="store_true", help="build and check everything here, and upload nothing")
    verb.add_argument("--out", metavar="DIR", type=expand_user, help="keep what was built in this new folder")
    verb.add_argument("--checkpoints", action="store_true", help="each checkpoint, too, as a branch step-N")
    verb.add_argument("--space", action="store_true", help="a demo, too, as a Space of the same name")
    verb.add_argument("--message", help="of the commit (Release of RUN)")
    verb.add_argument("--license", metavar="ID", help="licence of the model for its card, such as mit (none)")
    verb.set_defaults(run=_push)

    verb = verbs.add_parser(
        "evaluate",
        help="measure models, ours or anybody's, and write a report",
        description="Measure bits per byte, minimal pairs and generated stories of any number of causal models, and "
        "write report.json and report.html. The exit status is 2 where a model could not be measured.",
    )
    verb.add_argument(
        "models", nargs="+", metavar="model", type=expand_user, help="run folder, checkpoint folder, or id on the Hub"
    )
    verb.add_argument(
        "--corpus", type=expand_user, help="held-out stories to measure on (what the run held out, or `sample`)"
    )
    _add_reading_options(verb)
    verb.add_argument(
        "--train-corpus", type=expand_user, help="training stories, to find copies (those of the recipe, if here)"
    )
    verb.add_argument(
        "--out", type=expand_user, help="folder for the report (the run folder of a single run, else `evaluation`)"
    )
    verb.add_argument("--limit", type=_whole(1), help="at most so many stories, pairs of each kind, and prompts")
    verb.add_argument(
        "--quick", action="store_true", help="a first look: 100 stories, 50 pairs, 5 prompts, the model's own preset"
    )
    verb.add_argument(
        "--presets",
        help="sampling presets, such as balanced,plain,greedy; the first is the headline (all but greedy, the model's "
        "own first)",
    )
    verb.add_argument("--seed", type=_SEED, default=0, help="the same seed gives the same figures (0)")
    verb.add_argument("--judge-url", help="endpoint of a language model that grades the stories (costs money there)")
    verb.add_argument("--judge-model", help="its name there; the key is read from OPENAI_API_KEY")
    verb.add_argument(
        "--dump-pairs", metavar="FILE", type=expand_user, help="write the minimal pairs to this .tsv or .jsonl"
    )
    verb.set_defaults(run=_evaluate)

    verb = verbs.add_parser(
        "serve",
        help="serve a model over HTTP, with a page to try it on",
        description="Serve a model: a page at /, POST /generate, and OpenAI's /v1/completions. CHECKPOINT_PATH, "
        "TOKENIZER_PATH, DEVICE and PORT in the environment stand in for what is not given.",
    )
    verb.add_argument(
        "checkpoint", nargs="?", metavar="RUN", type=expand_user, help="run folder, or id of a model on the Hub"
    )
    verb.add_argument("--tokenizer", metavar="PATH", type=expand_user, help="another tokenizer than the run's")
    verb.add_argument("--device", help="such as cpu or cuda:0 (the best there is)")
    verb.add_argument("--dtype", help="weights: int8 for speed on a CPU (as saved)")
    verb.add_argument("--host", help="address to listen at (127.0.0.1; 0.0.0.0 for everybody)")
    verb.add_argument("--port", type=_whole(0, 65535), help="port to listen at (7779; 0 for any that is free)")
    verb.add_argument("--max-batch", type=_whole(1, MOST_AT_ONCE), help="completions generated at once (32)")
    verb.add_argument("--max-queue", type=_whole(0, MOST), help="completions that wait for a place (64)")
    verb.add_argument(
        "--time-limit", type=_seconds(0.001), metavar="SECONDS", help="for a request, waiting included (120)"
    )
    verb.add_argument("--rate-limit", metavar="LIMIT", help="for each client, or none (60/minute)")
    verb.add_argument(
        "--drain-time",
        type=_seconds(0),
        metavar="SECONDS",
        help="that running completions have left after SIGTERM (30)",
    )
    verb.add_argument(
        "--trusted-proxy",
        action="append",
        dest="trusted_proxies",
        metavar="ADDRESS",
        help="believe the X-Forwarded-For of this address or network; may be repeated",
    )
    verb.add_argument(
        "--cors-origin",
        action="append",
        dest="cors_origins",
        metavar="ORIGIN",
        help="let pages of this origin, such as https://example.org, use the server; may be repeated",
    )
    verb.set_defaults(run=_serve)
    return parser


def _train(options: argparse.Namespace, overrides: list[str]) -> None:
    from .commands.train import run

    run(options.recipe, overrides)


def _tokenizer(options: argparse.Namespace, _: list[str]) -> None:
    if (output_folder(options.out) / "tokenizer.json").exists():
        raise UserError(f"{options.out} holds a tokenizer already, which a model may need; choose another folder.")
    hub_dataset(options.corpus)
    # What follows takes seconds to import, and the mistakes above are told of before.
    from tinystories.tokenization import cut_to_top_k, tokenizer_report, train_bpe

    from .data.corpus import load_texts
    from .runs.loading import load_tokenizer

    whole = load_tokenizer(options.top_k_of) if options.top_k_of else None
    reading = _reading_options(options)
    stories = load_texts(options.corpus, max_stories=options.max_stories, text_split=reading.pop("split"), **reading)

    def texts():
        return (batch["text"] for batch in stories.iter(batch_size=1_000))

    shape = {"model_max_length": options.model_max_length, "total": len(stories)}
    if whole is not None:
        tokenizer = cut_to_top_k(whole, texts(), options.vocab_size, **shape)
    else:
        tokenizer = train_bpe(texts(), options.vocab_size, **shape)
    tokenizer.save_pretrained(options.out)
    report = tokenizer_report(tokenizer, texts())
    single = ", ".join(f'"{word}" {"yes" if is_one else "NO"}' for word, is_one in report["single_token"].items())
    print(f"vocabulary       {report['vocab_size']:,} ({report['unused_tokens']:,} of them not used by these stories)")
    print(f"bytes per token  {report['bytes_per_token']:.3f} ({report['bytes']:,} bytes, {report['tokens']:,} tokens)")
    print(f"single tokens    {single}")
    print(f"saved in         {options.out}")


def _generate(options: argparse.Namespace, _: list[str]) -> None:
    from .generation.presets import SAMPLING, check_preset, check_sampling

    if options.preset is not None:
        check_preset(options.preset)
    given = {name: getattr(options, name) for name in SAMPLING}
    sampling = {name: value for name, value in given.items() if value is not None}
    check_sampling(options.preset, sampling)
    if options.engine not in _ENGINES:
        raise UserError(f"There is no engine {options.engine!r}; there are {' and '.join(_ENGINES)}.")
    require_run(options.model)
    settings = {
        "preset": options.preset,
        "sampling": sampling,
        "seed": options.seed,
        "max_new_tokens": options.max_new_tokens,
        "stream": not options.post_process,
    }
    text = _ENGINES[options.engine](options, settings)
    if options.post_process:
        from .generation.postprocess import post_process

        print(post_process(text))


def _by_transformers(options: argparse.Namespace, settings: dict) -> str:
    from .generation.presets import check_dtype

    check_dtype(options.dtype)
    from .generation.generate import generate_story
    from .runs.loading import load_model

    model, tokenizer = load_model(options.model, options.dtype)
    return generate_story(model, tokenizer, options.prompt, **settings)


def _by_llama_cpp(options: argparse.Namespace, settings: dict) -> str:
    from .export.gguf_cache import cached_gguf, model_folder
    from .generation.llamacpp import generate_story, require_packages

    require_packages()
    folder = model_folder(options.model)
    return generate_story(folder, options.prompt, gguf=lambda: cached_gguf(folder, options.dtype or "f16"), **settings)


_ENGINES = {
    "transformers": _by_transformers,
    "llama.cpp": _by_llama_cpp,
}


def _export(options: argparse.Namespace, _: list[str]) -> None:
    require_run(options.model)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if options.to in _EXPORTS:
        _EXPORTS[options.to](options)
        return
    from .export.stock import TARGETS, TOLERANCE, export_stock

    if options.to is not None and options.to not in TARGETS:
        raise UserError(f"There is no export to {options.to!r}; there are {', '.join([*TARGETS, *_EXPORTS])}.")
    if options.dtype is not None:
        raise UserError("--dtype goes with --to gguf or --to onnx: elsewhere the weights keep theirs.")
    written = export_stock(options.model, options.out, options.to)
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {str(written.dtype)[6:]}")
    print(f"checked   largest difference of a logit {written.difference:.1e} at {written.positions:,} positions "
          f"(allowed {TOLERANCE:.0e})")  # fmt: skip
    print(f"saved in  {written.folder}")


def _export_gguf(options: argparse.Namespace) -> None:
    from .export.gguf import TOLERANCE, export_gguf

    written = export_gguf(options.model, options.out, **({"dtype": options.dtype} if options.dtype else {}))
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {written.dtype}, "
          f"{written.bytes / 1e6:.1f} MB")  # fmt: skip
    print(f"checked   largest difference of a logit {written.difference:.1e} at {written.positions:,} positions "
          f"(allowed {TOLERANCE:.0e}); the same tokens in {written.stories:,} stories")  # fmt: skip
    if written.rounding:
        print(f"rounding  changes a logit by {written.rounding:.1e} at most")
    if written.not_quantized:
        print(f"f16       {written.not_quantized:,} matrices, as their rows are no multiple of 32")
    print(f"saved in  {written.file}")


def _export_onnx(options: argparse.Namespace) -> None:
    from .export.onnx import TOLERANCE, export_onnx

    written = export_onnx(options.model, options.out, **({"dtype": options.dtype} if options.dtype else {}))
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {written.dtype}, "
          f"{written.bytes / 1e6:.1f} MB")  # fmt: skip
    print(f"checked   largest difference of a logit {written.difference:.1e} at {written.positions:,} positions, "
          f"without and with cache, in float32 (allowed {TOLERANCE:.0e})")  # fmt: skip
    if written.dtype != "f32":
        print(f"rounding  costs {written.cost:+.4f} nats a token on built-in stories")
    print(f"saved in  {written.folder}")


_EXPORTS = {"gguf": _export_gguf, "onnx": _export_onnx}


def _import(options: argparse.Namespace, _: list[str]) -> None:
    from transformers.utils import logging

    from .export.import_model import import_model
    from .export.stock import TOLERANCE

    logging.disable_progress_bar()
    written = import_model(options.source, options.out, options.tokenizer)
    print(f"source    {written.kind}, {written.parameters:,} parameters, {str(written.dtype)[6:]}")
    print(f"checked   largest difference of a logit {written.difference:.1e} at {written.positions:,} positions "
          f"(allowed {TOLERANCE:.0e})")  # fmt: skip
    print(f"loss      {written.next_token_loss:.3f} nats a token on built-in stories (at the token after the next "
          f"{written.two_ahead_loss:.3f})")  # fmt: skip
    print(f"saved in  {written.folder}")
    if written.shifted_twice:
        print(
            "tinystories: warning: this model predicts the token after the next one. Its labels were shifted twice in "
            "training, which is why its stories lose small words; no import can mend that, only training again can.",
            file=sys.stderr,
        )


def _doctor(options: argparse.Namespace, _: list[str]) -> int:
    import json

    from transformers.utils import logging

    from .checks import LIMIT, as_dicts, corpus_of, examine, has_error, report_lines, special_tokens_of

    logging.disable_progress_bar()
    cleaned = None
    if options.clean:
        from .data.cleaning import write_clean

        corpus = corpus_of(options.target, options.corpus, **_reading_options(options))
        special = special_tokens_of(options.target, options.tokenizer)
        cleaned = write_clean(corpus, options.clean, special_tokens=special)
        for split, counts in cleaned.items():
            print(
                f"{options.clean}, {split}: {counts['kept']:,} of {counts['stories']:,} stories kept; "
                f"fixed {counts['repaired'] or 'none'}, dropped {counts['dropped'] or 'none'}",
                file=sys.stderr if options.json else sys.stdout,
            )
    findings = examine(
        options.target,
        corpus=options.corpus,
        tokenizer=options.tokenizer,
        limit=LIMIT if options.limit is None else options.limit,
        quick=options.quick,
        strict=options.strict,
        cleaned=cleaned,
        **_reading_options(options),
    )
    if options.json:
        print(json.dumps(as_dicts(findings), ensure_ascii=False, indent=2))
    else:
        print("\n".join(report_lines(findings)))
    return 1 if has_error(findings) else 0


def _push(options: argparse.Namespace, _: list[str]) -> int:
    from .hub.upload import push

    problems = push(
        options.model,
        options.repo_id,
        include=[name.strip() for name in options.include.split(",")] if options.include is not None else (),
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


def _evaluate(options: argparse.Namespace, _: list[str]) -> int:
    import shlex

    from transformers.utils import logging

    from .evaluation.evaluate import evaluate_models
    from .evaluation.judge import Judge
    from .evaluation.report import HTML, report_folder, terminal_table, write_report

    logging.disable_progress_bar()
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("A judge needs both --judge-url and --judge-model.")
    folder = report_folder(options.out, options.models)
    report = evaluate_models(
        options.models,
        corpus=options.corpus,
        **_reading_options(options),
        train_corpus=options.train_corpus,
        limit=options.limit,
        quick=options.quick,
        presets=[name.strip() for name in options.presets.split(",")] if options.presets is not None else None,
        seed=options.seed,
        judge=Judge(options.judge_url, options.judge_model) if options.judge_url else None,
        dump_pairs=options.dump_pairs,
        command=shlex.join(["tinystories", *options.arguments]),
        save=lambda report: write_report(report, folder) if report["models"] else None,
    )
    if report["models"]:
        print(terminal_table(report))
        print(f"\nThe report is in {folder / HTML}")
    return 2 if report["failed"] else 0


def _serve(options: argparse.Namespace, _: list[str]) -> None:
    try:
        from .serving.serve import serve
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("fastapi", "h11", "limits", "pydantic", "starlette", "uvicorn"):
            raise
        raise UserError(
            f"The server needs packages of its own ({error.name}): pip install 'tinyllama-stories[serve]'."
        ) from None
    from .serving.settings import read_settings

    serve(read_settings(vars(options)))


if __name__ == "__main__":
    sys.exit(main())
