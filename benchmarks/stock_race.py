"""Train a plain Llama with a plain `Trainer`: the baseline of `benchmarks/race.py`.

    python benchmarks/stock_race.py '{"corpus": ..., "shape": {...}, "muon": false}' --output_dir OUT --max_minutes 5

Stories are separated by `<|endoftext|>`, concatenated and split into blocks of 512 tokens, of which each step uses 8.
The learning rate has 50 warm-up steps, is constant until 30% of the time, and then decays linearly to 2% of its peak.
Gradients are clipped to norm 1. Training uses bf16 where it is supported.
"""

import argparse
import json
from itertools import chain

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from tinystories.data.corpus import load_corpus
from tinystories.training.optimizers import MuonWithAdamW, hidden_matrices
from tinystories.training.time_limit import STEPS_WITHOUT_END, TimeLimitCallback
from tinystories.utils.console import print_any_character
from tinystories.utils.hardware import computes_in_bf16


BLOCK = 512
END = "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender", help="JSON with `corpus`, `shape` (of `LlamaConfig`) and `muon`")
    parser.add_argument("--output_dir", required=True, help="folder to save the model in")
    parser.add_argument("--max_minutes", type=float, required=True, help="training time")
    options = parser.parse_args()
    contender = json.loads(options.contender)
    set_seed(42)

    stories = load_corpus(contender["corpus"], max_validation_stories=8).train
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        stories["text"], contender["shape"]["vocab_size"], special_tokens=[END], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=END, eos_token=END, pad_token=END)

    def blocks(batch: dict) -> dict:
        ids = tokenizer([END + story for story in batch["text"]], return_token_type_ids=False)["input_ids"]
        concatenated = list(chain.from_iterable(ids))
        rows = [concatenated[at : at + BLOCK] for at in range(0, len(concatenated) // BLOCK * BLOCK, BLOCK)]
        return {"input_ids": rows, "labels": [list(row) for row in rows]}

    rows = stories.map(blocks, batched=True, num_proc=2, remove_columns=stories.column_names)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(**contender["shape"], **ends, tie_word_embeddings=True))
    limit = TimeLimitCallback(options.max_minutes * 60)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 50, max(0.02, 1 - 0.98 * (limit.progress - 0.3) / 0.7))

    optimizer = _optimizer(model, 1e-2 if contender["muon"] else 2e-3, contender["muon"])
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.output_dir,
            max_steps=STEPS_WITHOUT_END,
            per_device_train_batch_size=8,
            bf16=computes_in_bf16(use_cpu=not torch.cuda.is_available()),
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=default_data_collator,
        callbacks=[limit],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    tokenizer.save_pretrained(options.output_dir)


def _optimizer(model, learning_rate: float, muon: bool) -> torch.optim.Optimizer:
    if not muon:
        return torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    matrices = list(hidden_matrices(model).values())
    inside = {id(matrix) for matrix in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in inside]
    settings = {"lr": learning_rate, "weight_decay": 0.1}
    return MuonWithAdamW(
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True, **settings),
    )


if __name__ == "__main__":
    print_any_character()
    main()
