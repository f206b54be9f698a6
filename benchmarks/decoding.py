"""Speed of `generate` on a CPU beside a plain `LlamaForCausalLM` of the same shape.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --model runs/quickstart

Every variant decodes in turn, round after round, in one process, so that a slow minute of the machine falls on all of
them. What counts is new tokens per second of whole calls of `generate`, the prompt's reading included.

- `stock`: `LlamaForCausalLM` with what transformers gives.
- `ours`: the model as it is loaded.
- `fast`: the same after `use_native_decoding`; its greedy text is compared with that of `ours`.
- `int8`: after `use_native_decoding(model, weights="int8")`.

The weights are random unless `--model` names some; no story ends before its last token. A second table tells where the
time of one step goes: in the model, in choosing the token (penalties, top-p, drawing), and in the rest of `generate`.
"""

import argparse
import copy
import statistics
import time
from collections import defaultdict
from functools import wraps

import torch
from figures import describe_machine, keep, median_ratio
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList, PreTrainedModel

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.generation.native import use_native_decoding
from tinystories.runs.loading import load_model
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character


# Rows, new tokens, and how tokens are chosen.
WORKLOADS = {
    "1 greedy": (1, 200, {"do_sample": False}),
    "1 balanced": (1, 200, {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95,
                            "repetition_penalty": 1.2}),
    "8 greedy": (8, 100, {"do_sample": False}),
    "32 greedy": (32, 100, {"do_sample": False}),
    "32 top-p": (32, 100, {"do_sample": True, "top_p": 0.95, "top_k": 0}),
}  # fmt: skip
SHARED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps",
          "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
PROMPT_LENGTH = 8


def build(options: argparse.Namespace) -> dict[str, PreTrainedModel]:
    """The models by their variants' names; all have the same weights."""
    if options.model:
        ours, _ = load_model(options.model)
        ours = ours.to("cpu").float()
    else:
        torch.manual_seed(0)
        ours = TinyLlamaForCausalLM(TinyLlamaConfig(**SIZES[options.size])).eval()
    stock = LlamaForCausalLM(LlamaConfig(**{name: getattr(ours.config, name) for name in SHARED})).eval()
    stock.load_state_dict(ours.state_dict())
    models = {"stock": stock, "ours": ours, "fast": use_native_decoding(copy.deepcopy(ours))}
    models["int8"] = use_native_decoding(copy.deepcopy(ours), weights="int8")
    return {name: models[name] for name in options.variants.split(",")}


def decode(model: PreTrainedModel, workload: str) -> tuple[torch.Tensor, float]:
    """The tokens of one call of `generate`, and its seconds."""
    rows, new, choice = WORKLOADS[workload]
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, model.config.vocab_size, (rows, PROMPT_LENGTH), generator=generator)
    config = GenerationConfig(max_new_tokens=new, pad_token_id=model.config.pad_token_id, **choice)
    model.generation_config = GenerationConfig()
    torch.manual_seed(0)
    began = time.perf_counter()
    tokens = model.generate(ids, generation_config=config)
    return tokens, time.perf_counter() - began


def split(model: PreTrainedModel, workload: str) -> dict[str, float]:
    """Milliseconds of one step by where they go, the first (the prompt's) not counted."""
    spent = defaultdict(list)

    def timed(what, call):
        @wraps(call)
        def run(*args, **kwargs):
            began = time.perf_counter()
            result = call(*args, **kwargs)
            spent[what].append(time.perf_counter() - began)
            return result

        return run

    forward, processors, choose = model.forward, LogitsProcessorList.__call__, torch.multinomial
    model.forward = timed("model", forward)
    LogitsProcessorList.__call__ = timed("choice", processors)
    torch.multinomial = timed("drawing", choose)
    try:
        tokens, seconds = decode(model, workload)
    finally:
        del model.forward
        LogitsProcessorList.__call__, torch.multinomial = processors, choose
    steps = tokens.shape[1] - PROMPT_LENGTH
    model_ms, choice_ms = (1000 * statistics.median(spent[what][1:]) for what in ("model", "choice"))
    choice_ms += 1000 * statistics.median(spent["drawing"] or [0.0])
    whole = 1000 * (seconds - spent["model"][0]) / steps
    return {"model": model_ms, "choice": choice_ms, "rest": max(0.0, whole - model_ms - choice_ms), "prompt":
            1000 * spent["model"][0]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="run folder whose weights are used (random ones)")
    parser.add_argument("--size", choices=SIZES, default="24m", help="shape of the random weights (24m)")
    parser.add_argument("--variants", default="stock,ours,fast,int8", help="the first is what ratios refer to")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch, and so of all variants (as torch chooses)")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    models = build(options)
    base = next(iter(models))
    results = {}
    print(f"{describe_machine()}\n{models[base].num_parameters():,} parameters, {options.rounds} rounds\n")
    for workload in options.workloads.split(","):
        rows, new, choice = WORKLOADS[workload]
        texts = {name: decode(model, workload)[0] for name, model in models.items()}  # and warm up
        speeds = {name: [] for name in models}
        for _ in range(options.rounds):
            for name, model in models.items():
                speeds[name].append(rows * new / decode(model, workload)[1])
        print(f"batch {workload}, {new} new tokens: {choice}")
        print(f"{'':8} {'tokens/s (median)':>18} {'least':>8} {'most':>8}  x {base:8} {'ms a step: model':>16} "
              f"{'choice':>7} {'rest':>6}  {'prompt':>7}   text")  # fmt: skip
        results[workload] = {}
        for name, values in speeds.items():
            ratio = median_ratio(values, speeds[base])
            where = split(models[name], workload)
            same = None
            if name in ("fast", "int8") and "ours" in texts:
                same = (texts[name] == texts["ours"]).float().mean().item()
            said = "" if same is None else "as ours" if same == 1 else f"{same:.0%} of the tokens of ours"
            print(
                f"{name:8} {statistics.median(values):18,.1f} {min(values):8,.1f} {max(values):8,.1f}  {ratio:10.2f} "
                f"{where['model']:16.2f} {where['choice']:7.2f} {where['rest']:6.2f}  {where['prompt']:7.2f}   {said}"
            )
            results[workload][name] = {
                "tokens_per_second": values, "ratio": ratio, "milliseconds": where, "same_tokens_as_ours": same,
            }  # fmt: skip
        print(flush=True)
    keep(options.json, workloads=results)
    greedy = [name for name in results if "greedy" in name]
    different = [name for name in greedy if results[name].get("fast", {}).get("same_tokens_as_ours", 1) != 1]
    if different:
        raise SystemExit(f"The greedy text of `fast` is not that of `ours`: batch {', '.join(different)}")


if __name__ == "__main__":
    print_any_character()
    main()
