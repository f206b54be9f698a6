"""TinyLlama for transformers. Importing this package registers it with the Auto classes."""

import transformers

from .configuration_tinyllama import TinyLlamaConfig
from .modeling_tinyllama import (
    TinyLlamaForCausalLM,
    TinyLlamaForQuestionAnswering,
    TinyLlamaForSequenceClassification,
    TinyLlamaForTokenClassification,
    TinyLlamaModel,
    TinyLlamaPreTrainedModel,
)


__all__ = [
    "TinyLlamaConfig",
    "TinyLlamaForCausalLM",
    "TinyLlamaForQuestionAnswering",
    "TinyLlamaForSequenceClassification",
    "TinyLlamaForTokenClassification",
    "TinyLlamaModel",
    "TinyLlamaPreTrainedModel",
]

# `exist_ok`: the code of a model folder may have been registered before this package is imported.
transformers.AutoConfig.register("tinyllama", TinyLlamaConfig, exist_ok=True)
for auto_class, model_class in {
    "AutoModel": TinyLlamaModel,
    "AutoModelForCausalLM": TinyLlamaForCausalLM,
    "AutoModelForDecision": TinyLlamaForCausalLM,
    "AutoModelForSequenceClassification": TinyLlamaForSequenceClassification,
    "AutoModelForTokenClassification": TinyLlamaForTokenClassification,
    "AutoModelForQuestionAnswering": TinyLlamaForQuestionAnswering,
}.items():
    if hasattr(transformers, auto_class):  # AutoModelForDecision is new
        getattr(transformers, auto_class).register(TinyLlamaConfig, model_class, exist_ok=True)
