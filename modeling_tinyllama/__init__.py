"""TinyLlama for transformers. Importing this package registers it with the Auto classes."""

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_tinyllama import TinyLlamaConfig
from .modeling_tinyllama import (
    TinyLlamaForCausalLM,
    TinyLlamaForQuestionAnswering,
    TinyLlamaForSequenceClassification,
    TinyLlamaForTokenClassification,
    TinyLlamaModel,
    TinyLlamaPreTrainedModel,
)


# `exist_ok`: the code of a model folder may have been registered before this package is imported.
AutoConfig.register("tinyllama", TinyLlamaConfig, exist_ok=True)
AutoModel.register(TinyLlamaConfig, TinyLlamaModel, exist_ok=True)
AutoModelForCausalLM.register(TinyLlamaConfig, TinyLlamaForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(TinyLlamaConfig, TinyLlamaForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(TinyLlamaConfig, TinyLlamaForTokenClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(TinyLlamaConfig, TinyLlamaForQuestionAnswering, exist_ok=True)
if hasattr(transformers, "AutoModelForDecision"):  # not in every version that this runs with
    transformers.AutoModelForDecision.register(TinyLlamaConfig, TinyLlamaForCausalLM, exist_ok=True)


__all__ = [
    "TinyLlamaConfig",
    "TinyLlamaForCausalLM",
    "TinyLlamaForQuestionAnswering",
    "TinyLlamaForSequenceClassification",
    "TinyLlamaForTokenClassification",
    "TinyLlamaModel",
    "TinyLlamaPreTrainedModel",
]
