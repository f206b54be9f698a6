"""A run folder with random weights, for speed benchmarks."""

from pathlib import Path

import torch

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.data.synthetic import sample_stories
from tinystories.generation.generate import preset_config
from tinystories.runs.loading import load_tokenizer
from tinystories.sizes import SIZES
from tinystories.tokenization import train_bpe


CONTEXT = 512


def untrained_run(folder: Path, size: str, tokenizer_from: str | None = None) -> Path:
    """Write a model with random weights and a tokenizer to `folder`; EOS is generated only by chance.

    Args:
        size: a key of `tinystories.sizes.SIZES`.
        tokenizer_from: run folder with the tokenizer to use, padded to the vocabulary of the size; by default one is
            trained on the built-in stories.
    """
    shape = SIZES[size]
    if tokenizer_from:
        tokenizer = load_tokenizer(tokenizer_from)
    else:
        tokenizer = train_bpe(sample_stories(2_000), min(shape["vocab_size"], 2_048), model_max_length=CONTEXT)
    tokenizer.add_tokens([f" word{number}" for number in range(len(tokenizer), shape["vocab_size"])])
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(TinyLlamaConfig(**shape, max_position_embeddings=CONTEXT))
    for weight in model.parameters():
        if weight.ndim > 1:  # large enough that attention is not uniform
            torch.nn.init.normal_(weight, std=0.05)
    model.generation_config = preset_config("balanced", tokenizer, CONTEXT)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
