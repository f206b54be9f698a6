"""TinyLlama for transformers. Importing this package registers it with the Auto classes.

The configuration is registered at once, and the models with the first configuration that is made or the first name
that is taken from here: no Auto class or pipeline asks for a model before it has a configuration. Until then, what
transformers loads for models only is not loaded, which is almost half of the time that the import would take.
"""

from transformers import AutoConfig

from . import configuration_tinyllama


__all__ = [
    "TinyLlamaConfig",
    "TinyLlamaForCausalLM",
    "TinyLlamaForQuestionAnswering",
    "TinyLlamaForSequenceClassification",
    "TinyLlamaForTokenClassification",
    "TinyLlamaModel",
    "TinyLlamaPreTrainedModel",
]


def _register_models() -> None:
    import transformers

    from . import modeling_tinyllama as models

    config = configuration_tinyllama.TinyLlamaConfig
    classes = {
        "AutoModel": models.TinyLlamaModel,
        "AutoModelForCausalLM": models.TinyLlamaForCausalLM,
        "AutoModelForSequenceClassification": models.TinyLlamaForSequenceClassification,
        "AutoModelForTokenClassification": models.TinyLlamaForTokenClassification,
        "AutoModelForQuestionAnswering": models.TinyLlamaForQuestionAnswering,
    }
    if hasattr(transformers, "AutoModelForDecision"):  # not in every version that this runs with
        classes["AutoModelForDecision"] = models.TinyLlamaForCausalLM
    for name, model in classes.items():
        # `exist_ok`: the code of a model folder may have been registered before this package is imported.
        getattr(transformers, name).register(config, model, exist_ok=True)
    globals().update(
        {name: getattr(models, name) for name in __all__ if hasattr(models, name)}, TinyLlamaConfig=config
    )


def _new_config(cls, *args, **kwargs):
    if "TinyLlamaConfig" not in globals():
        _register_models()
    return object.__new__(cls)


# `exist_ok` as above.
AutoConfig.register("tinyllama", configuration_tinyllama.TinyLlamaConfig, exist_ok=True)
# Here and not in the class: its file must run alone, too, where a model folder brings it.
configuration_tinyllama.TinyLlamaConfig.__new__ = _new_config


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _register_models()
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
