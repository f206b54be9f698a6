"""`tinystories <verb>`. Each verb imports what it needs when it runs, so that `--help` answers at once."""

import argparse
import sys

from .errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit status: 0, 2 for a user's mistake, 130 where the user stopped it."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    options, extra = parser.parse_known_args([_with_dashes(argument) for argument in arguments])
    if extra and options.run is not _train:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    try:
        options.run(options, extra)
    except UserError as error:
        print(f"tinystories: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = " The same command with --resume_from_checkpoint goes on from the last checkpoint."
        print(f"\ntinystories: stopped.{hint if options.run is _train else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        print(f"tinystories: {error.strerror}: {error.filename or 'while reading or writing'}.", file=sys.stderr)
        return 2
    return 0


def _with_dashes(argument: str) -> str:
    """Options may be spelt with underscores, as recipe keys are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinystories", description="Train a small language model that writes children's stories, and use it."
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="<verb>")

    verb = verbs.add_parser(
        "train",
        help="train a model from a recipe",
        description="Train a model from a recipe. Any key of the recipe, of TinyLlamaConfig or of TrainingArguments "
        "can follow as --key value, for example --learning_rate 1e-3 --corpus my_stories.jsonl.",
    )
    verb.add_argument("recipe", help="YAML file, such as configs/quickstart.yaml")
    verb.set_defaults(run=_train)

    verb = verbs.add_parser("tokenizer", help="train a tokenizer on a corpus, or cut one to its most used tokens")
    verb.add_argument("corpus", help="`sample`, a dataset id on the Hub, or a file or folder of stories")
    verb.add_argument("out", help="folder to write the tokenizer to")
    verb.add_argument("--vocab-size", type=int, default=10_000, help="entries, special tokens included (10000)")
    verb.add_argument("--top-k-of", metavar="TOKENIZER", help="cut this byte-level BPE instead of training one")
    verb.add_argument("--model-max-length", type=int, default=512, help="longest input in tokens (512)")
    verb.add_argument("--text-column", default="text", help="column that holds the stories (text)")
    verb.add_argument("--max-stories", type=int, help="use no more than this many")
    verb.set_defaults(run=_tokenizer)

    verb = verbs.add_parser("generate", help="write a story")
    verb.add_argument("model", help="run folder, or id of a model on the Hub")
    verb.add_argument("prompt", help='how the story begins, such as "Once upon a time"')
    verb.add_argument("--preset", help="balanced, conservative, creative or plain (what the model's folder says)")
    verb.add_argument("--seed", type=int, help="tell the same story again")
    verb.add_argument("--max-new-tokens", type=int, help="at most so many tokens (what the context leaves)")
    verb.set_defaults(run=_generate)

    verb = verbs.add_parser(
        "export",
        help="write a model for people who do not run our code",
        description="Write a model as one of transformers' own, to be loaded without trust_remote_code. The folder is "
        "loaded back and compared before it is put in place.",
    )
    verb.add_argument("model", help="run folder, or id of a model on the Hub")
    verb.add_argument("out", help="folder to write to, new or empty")
    verb.add_argument("--to", help="llama or phi3 (llama where whole heads are rotated, else phi3)")
    verb.set_defaults(run=_export)
    return parser


def _train(options: argparse.Namespace, overrides: list[str]) -> None:
    from .recipe import load_recipe

    recipe = load_recipe(options.recipe, overrides)
    from transformers.utils import logging

    from .training import train

    # The training bar is `Trainer`'s own and stays; this is about one bar for each file that is written or read.
    logging.disable_progress_bar()
    train(recipe)


def _tokenizer(options: argparse.Namespace, _: list[str]) -> None:
    from tokenization import cut_to_top_k, tokenizer_report, train_bpe

    from .corpus import load_texts
    from .decoding import load_tokenizer
    from .folders import output_folder

    if options.model_max_length < 1:
        raise UserError("--model-max-length must be at least 1.")
    whole = load_tokenizer(options.top_k_of) if options.top_k_of else None
    stories = load_texts(options.corpus, text_column=options.text_column, max_stories=options.max_stories)

    if (output_folder(options.out) / "tokenizer.json").exists():
        raise UserError(f"{options.out} holds a tokenizer already, which a model may need; choose another folder.")

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
    from .decoding import check_preset, load_model, tell_story

    if options.preset is not None:
        check_preset(options.preset)
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise UserError("--max-new-tokens must be at least 1.")
    model, tokenizer = load_model(options.model)
    tell_story(
        model,
        tokenizer,
        options.prompt,
        preset=options.preset,
        seed=options.seed,
        max_new_tokens=options.max_new_tokens,
        stream=True,
    )


def _export(options: argparse.Namespace, _: list[str]) -> None:
    from transformers.utils import logging

    from .interop.stock import TOLERANCE, export_stock

    logging.disable_progress_bar()
    written = export_stock(options.model, options.out, options.to)
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {str(written.dtype)[6:]}")
    print(f"checked   largest difference of a logit {written.difference:.1e} at {written.positions:,} positions "
          f"(allowed {TOLERANCE:.0e})")  # fmt: skip
    print(f"saved in  {written.folder}")


if __name__ == "__main__":
    sys.exit(main())
