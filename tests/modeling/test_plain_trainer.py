"""A plain `transformers.Trainer` trains TinyLlama exactly as it trains a stock Llama with the same weights."""

import dataclasses

import pytest
import torch
from helpers import run_in_clean_process, tiny_config, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.models.auto import modeling_auto

import modeling_tinyllama
from modeling_tinyllama import TinyLlamaForCausalLM


PAD = 1
# Fields of TrainingArguments that reach the loss or its gradient, one setting each.
SETTINGS = {
    "default": {},
    "label_smoothing_factor": {"label_smoothing_factor": 0.1},
    "label_smoothing_accumulated": {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 3},
    "average_tokens_across_devices": {"average_tokens_across_devices": False, "gradient_accumulation_steps": 2},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "use_cache": {"use_cache": True},
    "label_names": {"label_names": ["labels"]},
    "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "all"},
    "train_sampling_strategy": {"train_sampling_strategy": "group_by_length"},
    "eval_accumulation_steps": {"eval_accumulation_steps": 1},
    "prediction_loss_only": {"prediction_loss_only": True},
    "remove_unused_columns": {"remove_unused_columns": False},
    "max_grad_norm": {"max_grad_norm": 0.1},
}


def examples(count: int) -> list[dict]:
    """Padded rows of several lengths, without loss on the padding."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for index in range(count):
        length = 8 + index % 5
        ids = torch.randint(3, 96, (length,), generator=generator)
        padding = torch.full((12 - length,), PAD)
        rows.append(
            {
                "input_ids": torch.cat([ids, padding]),
                "attention_mask": torch.cat([torch.ones(length), torch.zeros(12 - length)]).long(),
                "labels": torch.cat([ids, torch.full((12 - length,), -100)]),
            }
        )
    return rows


def train(model, folder, settings: dict) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of four steps and of the evaluation after them, and the final weights."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **settings,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples(32), eval_dataset=examples(8))
    trainer.train()
    log = trainer.state.log_history
    losses = [entry[key] for entry in log for key in ("loss", "eval_loss") if key in entry]
    return losses, model.state_dict()


def same_weights() -> tuple[TinyLlamaForCausalLM, LlamaForCausalLM]:
    ours = tiny_model(partial_rotary_factor=1.0)
    config = tiny_config(partial_rotary_factor=1.0)
    fields = LlamaConfig().to_dict().keys() & config.to_dict().keys() - {"model_type", "architectures", "auto_map"}
    stock = LlamaForCausalLM(LlamaConfig(**{name: getattr(config, name) for name in fields if hasattr(config, name)}))
    stock.load_state_dict(ours.state_dict())
    return ours, stock


@pytest.mark.parametrize("name", SETTINGS)
def test_training_equals_that_of_a_stock_llama(name, tmp_path):
    ours, stock = same_weights()
    our_losses, our_weights = train(ours, tmp_path / "ours", SETTINGS[name])
    stock_losses, stock_weights = train(stock, tmp_path / "stock", SETTINGS[name])
    assert len(our_losses) == 5
    tolerance = 2e-2 if name == "bf16" else 1e-4
    assert our_losses == pytest.approx(stock_losses, rel=tolerance)
    for key, weight in stock_weights.items():
        torch.testing.assert_close(our_weights[key], weight, rtol=tolerance, atol=tolerance)


def test_every_setting_of_the_comparison_is_a_field_of_training_arguments():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {key for settings in SETTINGS.values() for key in settings} <= fields


# ---- tables of transformers with class names


TABLES = {
    "MODEL_MAPPING_NAMES": "TinyLlamaModel",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "TinyLlamaForCausalLM",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "TinyLlamaForSequenceClassification",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "TinyLlamaForTokenClassification",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "TinyLlamaForQuestionAnswering",
}


def test_tinyllama_is_in_every_table_of_class_names_that_llama_is_in():
    found = {name for name, table in vars(modeling_auto).items() if name.endswith("_NAMES") and "llama" in table}
    assert found - {"CONFIG_MAPPING_NAMES"} == set(TABLES)  # configurations are registered by `AutoConfig.register`
    for name, class_name in TABLES.items():
        assert getattr(modeling_auto, name)["tinyllama"] == class_name
        assert hasattr(modeling_tinyllama, class_name)


SMOOTHED = """
import json
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = torch.arange(3, 51)
rows = [{"input_ids": ids, "labels": ids}] * 8
arguments = TrainingArguments(sys.argv[1] + "-out", max_steps=60, per_device_train_batch_size=2, learning_rate=1e-2,
                              label_smoothing_factor=0.1, save_strategy="no", report_to="none", disable_tqdm=True,
                              use_cpu=True)
Trainer(model=model, args=arguments, train_dataset=rows).train()
model.eval()
with torch.no_grad():
    print(json.dumps(model(input_ids=ids[None], labels=ids[None]).loss.item()))
"""


def test_the_code_of_a_model_folder_learns_the_next_token_under_label_smoothing(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    assert run_in_clean_process(SMOOTHED, tmp_path / "model", tmp_path) < 1.0
