"""Speed of one story at a time by llama.cpp beside `generate()`, with the same weights.

    python benchmarks/engines.py
    python benchmarks/engines.py --model runs/quickstart

Every engine tells the same story in turn, round after round, in one process, so that a slow minute of the machine
falls on all of them. What counts is new tokens per second of whole calls, the prompt's reading included; greedy, one
story, as many threads for each.

- `transformers`: `generate()` in float32, as the model is loaded.
- `fast`: the same after `tinystories.generation.native.use_native_decoding`.
- `f32`, `f16`, `bf16`, `q8_0`: llama.cpp with weights stored so (`tinystories generate --engine llama.cpp`).

The weights are random unless `--model` names some. `text` says how much of the story is that of `transformers`, up to
the first token that differs; rounded weights may choose another one where two are almost as likely.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from figures import describe_machine, keep, median_ratio
from transformers.utils import logging
from untrained import untrained_run

from tinystories.export.gguf import export_gguf
from tinystories.generation.generate import preset_config
from tinystories.generation.llamacpp import LlamaCpp, require_packages, sampling_settings
from tinystories.generation.native import use_native_decoding
from tinystories.generation.presets import GGUF_DTYPES
from tinystories.generation.prompts import encode_prompt
from tinystories.runs.loading import load_model
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character
from tinystories.utils.errors import UserError


PROMPT = "Once upon a time there was"


def engines(run: Path, folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], tuple[str, int]]]:
    """By name, what tells the story: its text, and of how many tokens it is. GGUF files are written to `folder`."""
    model, tokenizer = load_model(str(run))
    model = model.to("cpu").float()
    ids = torch.tensor([encode_prompt(tokenizer, PROMPT)])
    length, greedy = ids.shape[1], preset_config("greedy", tokenizer, options.tokens)

    def by_transformers(model) -> Callable[[], tuple[str, int]]:
        model.generation_config = greedy

        def tell() -> tuple[str, int]:
            tokens = model.generate(ids, attention_mask=torch.ones_like(ids))[0, length:]
            return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)

        return tell

    def by_llama_cpp(dtype: str) -> Callable[[], tuple[str, int]]:
        file = export_gguf(run, folder / f"{dtype}.gguf", dtype).file
        server = LlamaCpp(file, model.config.max_position_embeddings, torch.get_num_threads())
        prompt, settings = ids[0].tolist(), sampling_settings(run, "greedy")
        return lambda: server.complete(prompt, settings, max_new_tokens=options.tokens)

    makers = {
        "transformers": lambda: by_transformers(model),
        "fast": lambda: by_transformers(use_native_decoding(copy.deepcopy(model))),
    }
    makers |= {dtype: lambda dtype=dtype: by_llama_cpp(dtype) for dtype in GGUF_DTYPES}
    return {name: makers[name]() for name in options.engines.split(",")}


def measure(run: Path, folder: Path, options: argparse.Namespace) -> dict:
    tellers = engines(run, folder, options)
    texts = {name: tell()[0] for name, tell in tellers.items()}  # and warm up
    speeds = {name: [] for name in tellers}
    for _ in range(options.rounds):
        for name, tell in tellers.items():
            began = time.perf_counter()
            _, count = tell()
            speeds[name].append(count / (time.perf_counter() - began))
    base = next(iter(tellers))
    print(f"\n{'engine':14} {'tokens/s (median)':>18} {'least':>8} {'most':>8}   x {base}   text")
    results = {}
    for name, values in speeds.items():
        ratio = median_ratio(values, speeds[base])
        alike = len(os.path.commonprefix([texts[name], texts[base]])) / max(1, len(texts[base]))
        said = "" if name == base else "the same" if texts[name] == texts[base] else f"the same for {alike:.0%}"
        middle, least, most = statistics.median(values), min(values), max(values)
        print(f"{name:14} {middle:18,.1f} {least:8,.1f} {most:8,.1f}   {ratio:{2 + len(base)}.2f}   {said}")
        results[name] = {"tokens_per_second": values, "ratio": ratio, "same_text": texts[name] == texts[base]}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="run folder that is told with (random weights)")
    parser.add_argument("--size", choices=SIZES, default="24m", help="shape of the random weights (24m)")
    parser.add_argument(
        "--engines", default="transformers,fast,f32,f16,q8_0", help="the first is what ratios refer to"
    )
    parser.add_argument("--tokens", type=int, default=200, help="new ones, at most (200)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of every engine (as many as torch takes)")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        require_packages()
    except UserError as error:
        parser.exit(2, f"{error}\n")
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = Path(options.model) if options.model else untrained_run(folder / options.size, options.size)
        print(
            f"{describe_machine()}\n{options.model or options.size + ' with random weights'}, {options.rounds} rounds"
        )
        results = measure(run, folder, options)
    keep(options.json, engines=results)


if __name__ == "__main__":
    print_any_character()
    main()
