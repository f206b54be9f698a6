"""Effect of `copy_init` and `rename_characters` on how well a small model repeats the names of a story.

    python benchmarks/names.py --corpus FOLDER/train.parquet --recipe race/5 --steps 1368

All variants are trained for the same number of steps, so the figures do not depend on the machine. They are evaluated
on stories held out from the training file:

- bits per byte;
- nats per name that the story has mentioned before, and per name at its first mention (summed over the name's tokens);
- nats per repeated name in the same stories after their names were replaced, each by any of the same gender with equal
  probability, so that the frequency of names helps little;
- the fraction of sampled stories that mention a name without having introduced it
  (`tinystories.text.characters`).
"""

import argparse
import json
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from figures import describe_machine, save_json
from torch.nn.functional import cross_entropy

from tinystories import load_model, load_recipe, train
from tinystories.data.corpus import load_texts
from tinystories.data.renaming import NameTokens, Renaming
from tinystories.evaluation.likelihood import bits_per_byte, encode, score_sequences, score_stories, start_tokens
from tinystories.evaluation.story_figures import fault_rates
from tinystories.generation.batch import PROMPTS, generate_stories
from tinystories.runs.run_folder import run_and_step
from tinystories.utils.console import print_any_character


VARIANTS = {
    "none": {},
    "copy_init": {"copy_init": 1.0},
    "rename": {"rename_characters": True},
    "both": {"copy_init": 1.0, "rename_characters": True},
}
SAMPLES = 100
MAX_NEW_TOKENS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="training stories; some of them are held out")
    parser.add_argument("--recipe", default="race/5", help="name or file (default: race/5)")
    parser.add_argument("--steps", type=int, default=1368, help="training steps of each variant (default: 1368)")
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help=f"comma-separated (default: {','.join(VARIANTS)})"
    )
    parser.add_argument("--held-out", type=int, default=300, help="number of held-out stories (default: 300)")
    parser.add_argument("--keep", help="folder to save the models in (default: they are deleted)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()
    variants = options.variants.split(",")
    if unknown := set(variants) - VARIANTS.keys():
        parser.error(f"unknown variants: {', '.join(sorted(unknown))}")

    results = []
    with tempfile.TemporaryDirectory() as folder:
        corpus, stories = hold_out(options.corpus, options.held_out, Path(folder))
        for variant in variants:
            run = Path(options.keep or folder) / variant
            overrides = {
                **VARIANTS[variant],
                **{"corpus": str(corpus), "output_dir": str(run), "overwrite_output_dir": True},
                **{"max_minutes": None, "max_steps": options.steps, "save_strategy": "no", "disable_tqdm": True},
                "max_validation_stories": 8,  # all are scored below
            }
            began = time.perf_counter()
            train(load_recipe(options.recipe, overrides))
            seconds = time.perf_counter() - began
            figures = {"steps": run_and_step(run)[1], "seconds": seconds, **score(run, stories)}
            results.append({"variant": variant, **figures})
            print(json.dumps(results[-1]), flush=True)

    print(f"\n{describe_machine()}; {options.recipe}, {options.held_out:,} stories held out from {options.corpus}\n")
    print("variant     steps   bits per byte         nats per repeated name  replaced  first mention  not introduced")
    for result in results:
        print(
            f"{result['variant']:10} {result['steps']:6,}   {result['bits_per_byte']:.4f} ({result['low']:.4f}-"
            f"{result['high']:.4f})  {result['repeated']:22.3f}  {result['repeated_replaced']:8.3f}  "
            f"{result['first']:13.3f}  {result['unintroduced']:14.0%}"
        )
    save_json(options.json, recipe=options.recipe, results=results)


def hold_out(source: str, number: int, folder: Path) -> tuple[Path, list[str]]:
    """Split the stories of `source` into training stories and `number` evenly spaced ones that are held out.

    Returns:
        A corpus in `folder`, and the stories that are held out.
    """
    stories = load_texts(source)
    places = np.linspace(0, len(stories) - 1, number).round().astype(int)
    held_out = stories.select(places)
    corpus = folder / "corpus"
    corpus.mkdir()
    stories.select(np.setdiff1d(np.arange(len(stories)), places)).to_parquet(corpus / "train.parquet")
    held_out.to_parquet(corpus / "validation.parquet")
    return corpus, held_out["text"][:]


def score(run: Path, stories: list[str]) -> dict:
    model, tokenizer = load_model(str(run))
    figure = bits_per_byte(score_stories(model, tokenizer, stories))
    prompts = list(islice(cycle(PROMPTS), SAMPLES))
    samples = generate_stories(
        model, tokenizer, prompts, preset="balanced", max_new_tokens=MAX_NEW_TOKENS, seed=0, progress=False
    )
    return {
        "bits_per_byte": figure.value,
        "low": figure.low,
        "high": figure.high,
        **name_losses(model, tokenizer, stories),
        "repeated_replaced": name_losses(model, tokenizer, replace_names(tokenizer, stories))["repeated"],
        "unintroduced": fault_rates([sample.text for sample in samples])["unintroduced_names"].value,
        "parameters": model.num_parameters(),
    }


def replace_names(tokenizer, stories: list[str]) -> list[str]:
    """The stories with the names that `rename_characters` would give them."""
    names = NameTokens(tokenizer)
    renamed = []
    for story, ids in enumerate(encode(tokenizer, stories)):
        tokens = np.array(ids)
        new = Renaming([tokens], names, seed=0).rename(tokens, chunk=0, begin=0, story=story, epoch=0)
        renamed.append(tokenizer.decode(new))
    return renamed


def name_losses(model, tokenizer, stories: list[str]) -> dict[str, float]:
    """Mean nats per name in `stories`, of names that the story has mentioned before, and of first mentions.

    Names are those of `FIRST_NAMES`; stories are cut at the context length.
    """
    names, start = NameTokens(tokenizer), start_tokens(model, tokenizer)
    sequences = [(start + ids)[: model.config.max_position_embeddings] for ids in encode(tokenizer, stories)]

    def losses(index: int, logits: torch.Tensor) -> list[float]:
        return cross_entropy(logits[:-1], torch.tensor(sequences[index][1:]), reduction="none").tolist()

    scored = score_sequences(model, sequences, losses)
    first: list[float] = []
    repeated: list[float] = []
    for ids, nats in zip(sequences, scored, strict=True):
        seen = set()
        for position, code in zip(*names.find(np.array(ids)), strict=True):
            word = names.words[code]
            if word.name < 0 or position == 0:
                continue
            length = len(names.forms[word.name, word.prefix])
            (repeated if word.name in seen else first).append(sum(nats[position - 1 : position - 1 + length]))
            seen.add(word.name)
    return {"repeated": float(np.mean(repeated)), "first": float(np.mean(first)), "names": len(first) + len(repeated)}


if __name__ == "__main__":
    print_any_character()
    main()
