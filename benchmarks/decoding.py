"""Speed of `generate()` on a CPU, compared with a plain `LlamaForCausalLM` of the same shape.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --model runs/quickstart

The variants alternate in one process for several rounds, so that other load on the machine affects all of them. The
speed is that of a whole call of `generate()` in new tokens per second, including the prefill.

- `stock`: `LlamaForCausalLM` with transformers' defaults.
- `ours`: the model as loaded, without native decoding.
- `native`: the same model after `use_native_decoding(model, draft=None)`; its greedy text must be that of `ours`.
- `drafted`: the same model after `use_native_decoding(model)`, which is speculative for one story; `speculation.py`
  measures it with a trained model, whose drafts are accepted more often.
- `int8`: the same model after `use_native_decoding(model, weights="int8")`.

The weights are random unless `--model` names a run, and EOS is not generated. The columns after `ms per step` give the
time of the parts of a decoding step: the model, sampling (logits processors and `torch.multinomial`), and the rest of
`generate()`. `prefill` is the time of the first forward pass, also in milliseconds.
"""

import argparse
import copy
import statistics
import time
from collections import defaultdict
from functools import wraps

import torch
from figures import describe_machine, median_ratio, save_json
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList, PreTrainedModel

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.generation.native import use_native_decoding
from tinystories.runs.loading import load_model
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character


# Batch size, new tokens, and sampling settings.
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
    """The model of each variant; all have the same weights."""
    if options.model:
        ours, _ = load_model(options.model)
        ours = ours.to("cpu").float()
    else:
        torch.manual_seed(0)
        ours = TinyLlamaForCausalLM(TinyLlamaConfig(**SIZES[options.size])).eval()
    stock = LlamaForCausalLM(LlamaConfig(**{name: getattr(ours.config, name) for name in SHARED})).eval()
    stock.load_state_dict(ours.state_dict())
    models = {"stock": stock, "ours": ours, "native": use_native_decoding(copy.deepcopy(ours), draft=None)}
    models["drafted"] = use_native_decoding(copy.deepcopy(ours))
    models["int8"] = use_native_decoding(copy.deepcopy(ours), weights="int8")
    return {name: models[name] for name in options.variants.split(",")}


def decode(model: PreTrainedModel, workload: str) -> tuple[torch.Tensor, float]:
    """The token ids `[batch, length]` that one call of `generate` returns, and its seconds."""
    rows, new_tokens, sampling = WORKLOADS[workload]
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, model.config.vocab_size, (rows, PROMPT_LENGTH), generator=generator)
    config = GenerationConfig(max_new_tokens=new_tokens, pad_token_id=model.config.pad_token_id, **sampling)
    model.generation_config = GenerationConfig()
    torch.manual_seed(0)
    began = time.perf_counter()
    tokens = model.generate(ids, generation_config=config)
    return tokens, time.perf_counter() - began


def step_times(model: PreTrainedModel, workload: str) -> dict[str, float]:
    """Milliseconds per decoding step by part; the prefill is separate."""
    spent = defaultdict(list)

    def timed(part, call):
        @wraps(call)
        def run(*args, **kwargs):
            began = time.perf_counter()
            result = call(*args, **kwargs)
            spent[part].append(time.perf_counter() - began)
            return result

        return run

    forward, processors, multinomial = model.forward, LogitsProcessorList.__call__, torch.multinomial
    model.forward = timed("model", forward)
    LogitsProcessorList.__call__ = timed("sampling", processors)
    torch.multinomial = timed("multinomial", multinomial)
    try:
        tokens, seconds = decode(model, workload)
    finally:
        del model.forward
        LogitsProcessorList.__call__, torch.multinomial = processors, multinomial
    steps = tokens.shape[1] - PROMPT_LENGTH
    model_ms, sampling_ms = (1000 * statistics.median(spent[part][1:]) for part in ("model", "sampling"))
    sampling_ms += 1000 * statistics.median(spent["multinomial"] or [0.0])
    total = 1000 * (seconds - spent["model"][0]) / steps
    return {
        "model": model_ms,
        "sampling": sampling_ms,
        "rest": max(0.0, total - model_ms - sampling_ms),
        "prefill": 1000 * spent["model"][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="run folder (default: random weights)")
    parser.add_argument(
        "--size", choices=SIZES, default="24m", help="size of the model with random weights (default: 24m)"
    )
    parser.add_argument(
        "--variants",
        default="stock,ours,native,drafted,int8",
        help="comma-separated; ratios are relative to the first",
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each variant (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of all variants (default: torch's number)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    models = build(options)
    base = next(iter(models))
    results = {}
    print(f"{describe_machine()}\n{models[base].num_parameters():,} parameters, {options.rounds} rounds\n")
    for workload in options.workloads.split(","):
        rows, new_tokens, sampling = WORKLOADS[workload]
        texts = {name: decode(model, workload)[0] for name, model in models.items()}  # also the warm-up
        speeds = {name: [] for name in models}
        for _ in range(options.rounds):
            for name, model in models.items():
                speeds[name].append(rows * new_tokens / decode(model, workload)[1])
        print(f"batch {workload}, {new_tokens} new tokens: {sampling}")
        print(f"{'':8} {'tokens/s (median)':>18} {'min':>8} {'max':>8}  x {base:8} {'ms per step: model':>18} "
              f"{'sampling':>8} {'rest':>6}  {'prefill':>7}   text")  # fmt: skip
        results[workload] = {}
        for name, values in speeds.items():
            ratio = median_ratio(values, speeds[base])
            times = step_times(models[name], workload)
            same = None
            if name in ("native", "drafted", "int8") and "ours" in texts:
                same = (texts[name] == texts["ours"]).float().mean().item()
            note = "" if same is None else "same as ours" if same == 1 else f"{same:.0%} of the tokens of ours"
            print(
                f"{name:8} {statistics.median(values):18,.1f} {min(values):8,.1f} {max(values):8,.1f}  {ratio:10.2f} "
                f"{times['model']:18.2f} {times['sampling']:8.2f} {times['rest']:6.2f}  {times['prefill']:7.2f}  "
                f" {note}"
            )
            results[workload][name] = {
                "tokens_per_second": values, "ratio": ratio, "milliseconds": times, "same_tokens_as_ours": same,
            }  # fmt: skip
        print(flush=True)
    save_json(options.json, workloads=results)
    greedy = [name for name in results if "greedy" in name]
    different = [
        f"{variant} (batch {name})"
        for name in greedy
        for variant in ("native", "drafted")
        if results[name].get(variant, {}).get("same_tokens_as_ours", 1) != 1
    ]
    if different:
        raise SystemExit(f"The greedy text differs from that of `ours`: {', '.join(different)}")


if __name__ == "__main__":
    print_any_character()
    main()
