"""Speed of speculative decoding for one story at a time, compared with native decoding in float32 and int8.

    python benchmarks/speculation.py
    python benchmarks/speculation.py --models builtin,24m --presets greedy

For each story the variants alternate in one process for several rounds. The speed is that of its shortest round,
so that other load on the machine has less effect; the ratio is that of the times of all stories. The text of `float32`
and `speculative` must be the same.

The models are a run folder or Hub id, `builtin`, `widened:SIZE` (the built-in model in the shape of that size, with
the same text: the cost of that size with the acceptance rate of the built-in model), or a size with
random weights.
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
from figures import describe_machine, save_json
from transformers import PreTrainedModel
from widened import widened

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.generation.batch import PROMPTS
from tinystories.generation.native import use_native_decoding
from tinystories.generation.native.draft_length import DraftLength
from tinystories.generation.presets import PRESETS
from tinystories.runs.loading import load_model
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character


def build(name: str) -> tuple[PreTrainedModel, list[torch.Tensor]]:
    """A model, and the ids `[1, length]` of prompts for it."""
    path = "builtin" if name in SIZES or name.startswith("widened:") else name
    model, tokenizer = load_model(path)
    model = model.to("cpu").float()
    if name in SIZES:
        torch.manual_seed(0)
        model = TinyLlamaForCausalLM(TinyLlamaConfig(**SIZES[name])).eval()
    elif name.startswith("widened:"):
        model = widened(model, name.partition(":")[2])
    return model, [tokenizer(prompt, return_tensors="pt").input_ids for prompt in PROMPTS]


class Drafts:
    """Counts the drafted tokens that were needed, and of these the accepted ones."""

    def __init__(self) -> None:
        self.judged = self.accepted = 0
        judge = DraftLength.judge

        def counted(length: DraftLength, accepted: bool) -> None:
            self.judged, self.accepted = self.judged + 1, self.accepted + accepted
            judge(length, accepted)

        DraftLength.judge = counted  # type: ignore[method-assign]


def generate(
    model: PreTrainedModel, ids: torch.Tensor, seed: int, settings: dict, clock: Callable[[], float]
) -> tuple[torch.Tensor, float]:
    """The output of one call of `generate`, and its seconds."""
    torch.manual_seed(seed)
    began = clock()
    output = model.generate(ids, **settings)
    return output, clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="builtin,widened:24m,24m", help="comma-separated")
    parser.add_argument("--presets", default="greedy,plain,balanced", help="comma-separated")
    parser.add_argument("--stories", type=int, default=5, help="stories, each with its own prompt (default: 5)")
    parser.add_argument("--tokens", type=int, default=200, help="most new tokens of a story (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each story (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of all variants (default: torch's number)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure the processor's time instead of the wall time, for one thread on a machine under load",
    )
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.cpu_time and torch.get_num_threads() != 1:
        parser.error("--cpu-time needs --threads 1")
    clock = time.process_time if options.cpu_time else time.perf_counter
    drafts, results = Drafts(), {}
    print(describe_machine())
    for name in options.models.split(","):
        model, prompts = build(name)
        variants = {
            "float32": use_native_decoding(copy.deepcopy(model), draft=None),
            "int8": use_native_decoding(copy.deepcopy(model), "int8"),
            "speculative": use_native_decoding(model),
        }
        print(f"\n{name}: {model.num_parameters():,} parameters, {options.stories} stories, {options.rounds} rounds")
        print(f"{'preset':10} {'variant':12} {'tokens/s':>9} {'ratio':>6}   accepted drafts")
        for preset in options.presets.split(","):
            settings = {"max_new_tokens": options.tokens, "pad_token_id": 1, "do_sample": preset != "greedy",
                        **PRESETS.get(preset, {"repetition_penalty": 1.0})}  # fmt: skip
            seconds, tokens = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0)
            drafts.judged = drafts.accepted = 0
            for seed, ids in enumerate(prompts[: options.stories]):
                outputs, times = {}, {variant: [] for variant in variants}
                for _ in range(options.rounds):
                    for variant, each in variants.items():
                        outputs[variant], spent = generate(each, ids, seed, settings, clock)
                        times[variant].append(spent)
                if not torch.equal(outputs["float32"], outputs["speculative"]):
                    raise SystemExit(f"{name}, {preset}, seed {seed}: speculation changed the text")
                for variant in variants:
                    seconds[variant] += min(times[variant])
                    tokens[variant] += outputs[variant].shape[1] - ids.shape[1]
            speeds = {variant: tokens[variant] / seconds[variant] for variant in variants}
            for variant, speed in speeds.items():
                rate = drafts.accepted / drafts.judged if variant == "speculative" and drafts.judged else None
                note = "" if rate is None else f"   {rate:.1%}"
                print(f"{preset:10} {variant:12} {speed:9,.0f} {speed / speeds['float32']:6.2f}{note}", flush=True)
            rate = drafts.accepted / drafts.judged if drafts.judged else None
            results[f"{name} {preset}"] = {"tokens_per_second": speeds, "accepted": rate}
    save_json(options.json, results=results)


if __name__ == "__main__":
    print_any_character()
    main()
