"""Speed of llama.cpp, compared with `generate()`, for one story at a time with the same weights.

    python benchmarks/engines.py
    python benchmarks/engines.py --model runs/quickstart

The engines alternate in one process for several rounds, so that other load on the machine affects all of them. The
speed is that of a whole call in new tokens per second, including the prefill, with batch size 1, greedy decoding and
the same number of threads.

- `transformers`: `generate()` in float32, without native decoding.
- `native`: the same after `tinystories.generation.native.use_native_decoding`.
- `f32`, `f16`, `bf16`, `q8_0`: llama.cpp with weights of this type (`tinystories generate --engine llama.cpp`).

The weights are random unless `--model` names a run. The column `text` compares the text with that of the first engine:
the same, or the same up to a fraction of its length. Rounded weights can change a token where two are almost equally
likely.
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
from figures import describe_machine, median_ratio, save_json
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
    """For each engine a function that generates a story and returns its text and number of new tokens.

    GGUF files are written to `folder`.
    """
    model, tokenizer = load_model(str(run))
    model = model.to("cpu").float()
    ids = torch.tensor([encode_prompt(tokenizer, PROMPT)])
    length, greedy = ids.shape[1], preset_config("greedy", tokenizer, options.tokens)

    def with_transformers(model) -> Callable[[], tuple[str, int]]:
        model.generation_config = greedy

        def generate() -> tuple[str, int]:
            tokens = model.generate(ids, attention_mask=torch.ones_like(ids))[0, length:]
            return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)

        return generate

    def with_llama_cpp(dtype: str) -> Callable[[], tuple[str, int]]:
        file = export_gguf(run, folder / f"{dtype}.gguf", dtype).file
        server = LlamaCpp(file, model.config.max_position_embeddings, torch.get_num_threads())
        prompt, settings = ids[0].tolist(), sampling_settings(run, "greedy")
        return lambda: server.complete(prompt, settings, max_new_tokens=options.tokens)

    makers = {
        "transformers": lambda: with_transformers(model),
        "native": lambda: with_transformers(use_native_decoding(copy.deepcopy(model))),
    }
    makers |= {dtype: lambda dtype=dtype: with_llama_cpp(dtype) for dtype in GGUF_DTYPES}
    return {name: makers[name]() for name in options.engines.split(",")}


def measure(run: Path, folder: Path, options: argparse.Namespace) -> dict:
    generators = engines(run, folder, options)
    texts = {name: generate()[0] for name, generate in generators.items()}  # also the warm-up
    speeds = {name: [] for name in generators}
    for _ in range(options.rounds):
        for name, generate in generators.items():
            began = time.perf_counter()
            _, count = generate()
            speeds[name].append(count / (time.perf_counter() - began))
    base = next(iter(generators))
    print(f"\n{'engine':14} {'tokens/s (median)':>18} {'min':>8} {'max':>8}   x {base}   text")
    results = {}
    for name, values in speeds.items():
        ratio = median_ratio(values, speeds[base])
        common = len(os.path.commonprefix([texts[name], texts[base]])) / max(1, len(texts[base]))
        note = "" if name == base else "the same" if texts[name] == texts[base] else f"the same for {common:.0%}"
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"{name:14} {median:18,.1f} {low:8,.1f} {high:8,.1f}   {ratio:{2 + len(base)}.2f}   {note}")
        results[name] = {"tokens_per_second": values, "ratio": ratio, "same_text": texts[name] == texts[base]}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="run folder (default: random weights)")
    parser.add_argument(
        "--size", choices=SIZES, default="24m", help="size of the model with random weights (default: 24m)"
    )
    parser.add_argument(
        "--engines",
        default="transformers,native,f32,f16,q8_0",
        help="comma-separated; ratios are relative to the first",
    )
    parser.add_argument("--tokens", type=int, default=200, help="maximum number of new tokens (default: 200)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each engine (default: 7)")
    parser.add_argument("--threads", type=int, help="threads of each engine (default: torch's number)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        require_packages()
    except UserError as error:
        parser.exit(2, f"{error}\n")
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = Path(options.model) if options.model else untrained_run(folder / options.size, options.size)
        print(
            f"{describe_machine()}\n{options.model or options.size + ' with random weights'}, {options.rounds} rounds"
        )
        results = measure(run, folder, options)
    save_json(options.json, engines=results)


if __name__ == "__main__":
    print_any_character()
    main()
