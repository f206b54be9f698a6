"""TinyLlama for transformers. Importing this package registers it with the Auto classes."""

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


AutoConfig.register("tinyllama", TinyLlamaConfig)
TinyLlamaConfig.register_for_auto_class()
for _auto_class, _model_class in (
    (AutoModel, TinyLlamaModel),
    (AutoModelForCausalLM, TinyLlamaForCausalLM),
    (AutoModelForSequenceClassification, TinyLlamaForSequenceClassification),
    (AutoModelForTokenClassification, TinyLlamaForTokenClassification),
    (AutoModelForQuestionAnswering, TinyLlamaForQuestionAnswering),
):
    _auto_class.register(TinyLlamaConfig, _model_class)
    _model_class.register_for_auto_class(_auto_class.__name__)


__all__ = [
    "TinyLlamaConfig",
    "TinyLlamaForCausalLM",
    "TinyLlamaForQuestionAnswering",
    "TinyLlamaForSequenceClassification",
    "TinyLlamaForTokenClassification",
    "TinyLlamaModel",
    "TinyLlamaPreTrainedModel",
]
