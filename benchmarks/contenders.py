"""The recipe's model and a plain `LlamaForCausalLM` of the same shape and weights, and what both are fed with."""

import statistics
import time
from dataclasses import dataclass

import torch
from figures import describe_machine, keep, median_ratio
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.data.corpus import recipe_corpus
from tinystories.data.packing import PackedStories
from tinystories.recipe import load_recipe
from tinystories.training.build import model_config, pack_corpus, recipe_tokenizer
from tinystories.training.throughput import peak_flops, training_flops_per_token
from tinystories.utils.hardware import computes_in_bf16


SHARED_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings", "pad_token_id",
                 "bos_token_id", "eos_token_id")  # fmt: skip


class Stories(torch.utils.data.Dataset):
    """One story a row, cut to the context, as `run_clm`-like scripts without packing feed them."""

    def __init__(self, tokenised, context: int):
        self.tokenised, self.context = tokenised, context

    def __len__(self):
        return len(self.tokenised)

    def __getitem__(self, index):
        return {"input_ids": self.tokenised[index]["input_ids"][: self.context]}


@dataclass
class Contenders:
    """Two models of the same shape, the second as far as it goes with the same weights.

    Attributes:
        rows, validation_rows: packed stories.
        stories: the same, one a row.
        bf16: whether this machine computes in it.
        flops_per_token: floating point operations of a training step, for one story token.
        peak: FLOP/s that the machine reached whenever it was looked at, in bf16 or else in float32.
    """

    tokenizer: PreTrainedTokenizerBase
    ours: TinyLlamaForCausalLM
    stock: LlamaForCausalLM
    rows: PackedStories
    validation_rows: PackedStories
    stories: Stories
    device: torch.device
    bf16: bool
    flops_per_token: float
    peak: float = 0.0

    @classmethod
    def of(cls, recipe_file: str, corpus_name: str) -> "Contenders":
        """Read and tokenise at most 20,000 stories of a corpus, and make both models."""
        overrides = ["--corpus", corpus_name, "--optimizer", "adamw", "--max_validation_stories", "50"]
        if corpus_name != "sample":
            overrides += ["--max_stories", "20000"]
        recipe = load_recipe(recipe_file, overrides)
        corpus = recipe_corpus(recipe)
        tokenizer = recipe_tokenizer(recipe, corpus)
        rows, validation_rows = pack_corpus(corpus, tokenizer, recipe, seed=0)
        config = model_config(recipe, tokenizer)
        torch.manual_seed(0)
        ours = TinyLlamaForCausalLM(config)
        stock = LlamaForCausalLM(LlamaConfig(**{name: getattr(config, name) for name in SHARED_FIELDS}))
        stock.load_state_dict(ours.state_dict())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bf16 = computes_in_bf16(use_cpu=device.type == "cpu")
        return cls(
            tokenizer=tokenizer,
            ours=ours,
            stock=stock,
            rows=rows,
            validation_rows=validation_rows,
            stories=Stories(rows.stories.with_format(None), recipe.max_length),
            device=device,
            bf16=bf16,
            flops_per_token=training_flops_per_token(ours, rows.mean_attended),
        )

    def look_at_peak(self) -> None:
        """Before and after what is measured: on a shared machine one look may fall into a slow moment."""
        self.peak = max(self.peak, peak_flops(self.device, torch.bfloat16 if self.bf16 else torch.float32))

    def report(self, heading: str, speeds: dict[str, list[float]], json_file: str | None) -> None:
        """Print story tokens per second by variant, beside those of the last one, and keep them."""
        self.look_at_peak()
        base = list(speeds)[-1]
        print(f"\n{describe_machine()}; matrix products at {self.peak / 1e9:,.0f} GFLOP/s")
        print(f"{heading}\n")
        print(f"{'variant':16} {'story tokens/s (median)':>24} {'least':>11} {'most':>11} {'MFU':>6}  x {base}")
        results = {}
        for variant, values in speeds.items():
            median, ratio = statistics.median(values), median_ratio(values, speeds[base])
            print(
                f"{variant:16} {median:24,.0f} {min(values):11,.0f} {max(values):11,.0f} "
                f"{median * self.flops_per_token / self.peak:6.0%}  {ratio:.2f}"
            )
            results[variant] = {"story_tokens_per_second": values, "ratio": ratio}
        keep(json_file, peak_flops=self.peak, flops_per_token=self.flops_per_token, variants=results)


def now(device: torch.device) -> float:
    """Seconds on a clock that a GPU has caught up with."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
