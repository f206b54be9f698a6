"""The recipe's model and a plain `LlamaForCausalLM` of the same shape and weights, with the data for both."""

import statistics
import time
from dataclasses import dataclass

import torch
from figures import describe_machine, median_ratio, save_json
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
    """One story per row, truncated to the context, as scripts without packing do."""

    def __init__(self, tokenised, context: int):
        self.tokenised, self.context = tokenised, context

    def __len__(self):
        return len(self.tokenised)

    def __getitem__(self, index):
        return {"input_ids": self.tokenised[index]["input_ids"][: self.context]}


@dataclass
class Contenders:
    """Two models of the same shape and weights, and the data for both.

    Attributes:
        rows, validation_rows: packed stories.
        stories: the same stories, one per row.
        bf16: whether this machine computes in bfloat16.
        flops_per_token: FLOPs of a training step per story token.
        peak: FLOP/s of matrix products, in bfloat16 if `bf16`, otherwise in float32: from the data sheet of a known
            GPU, otherwise the highest that was measured.
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
        """Read and tokenise at most 20,000 stories of a corpus, and create both models."""
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

    def measure_peak(self) -> None:
        """Called before and after a benchmark, because a single measurement on a shared machine may be low."""
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        self.peak = max(self.peak, peak_flops(self.device, dtype) or measured_flops(self.device, dtype))

    def report(self, heading: str, speeds: dict[str, list[float]], json_file: str | None) -> None:
        """Print story tokens per second of each variant and the ratio to the last one, and save them as JSON."""
        self.measure_peak()
        base = list(speeds)[-1]
        print(f"\n{describe_machine()}; matrix products at {self.peak / 1e9:,.0f} GFLOP/s")
        print(f"{heading}\n")
        print(f"{'variant':16} {'story tokens/s (median)':>24} {'min':>11} {'max':>11} {'MFU':>6}  x {base}")
        results = {}
        for variant, values in speeds.items():
            median, ratio = statistics.median(values), median_ratio(values, speeds[base])
            print(
                f"{variant:16} {median:24,.0f} {min(values):11,.0f} {max(values):11,.0f} "
                f"{median * self.flops_per_token / self.peak:6.0%}  {ratio:.2f}"
            )
            results[variant] = {"story_tokens_per_second": values, "ratio": ratio}
        save_json(json_file, peak_flops=self.peak, flops_per_token=self.flops_per_token, variants=results)


def now(device: torch.device) -> float:
    """Seconds of a clock, after the GPU has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products, the best of eight."""
    size = 4096 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        began = now(device)
        torch.mm(left, right)
        best = min(best, now(device) - began)
    return 2 * size**3 / best
