"""The configuration: the project's own model, refusals that say what to change, exact round trips, Auto classes, and
folders that load in a process that cannot import this package."""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from helpers import tiny_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForDecision,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import modeling_tinyllama
from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from modeling_tinyllama.configuration_tinyllama import AUTO_MAP, ROPE_REQUIRED_KEYS


HEADS = {
    AutoModel: modeling_tinyllama.TinyLlamaModel,
    AutoModelForCausalLM: modeling_tinyllama.TinyLlamaForCausalLM,
    AutoModelForDecision: modeling_tinyllama.TinyLlamaForCausalLM,
    AutoModelForSequenceClassification: modeling_tinyllama.TinyLlamaForSequenceClassification,
    AutoModelForTokenClassification: modeling_tinyllama.TinyLlamaForTokenClassification,
    AutoModelForQuestionAnswering: modeling_tinyllama.TinyLlamaForQuestionAnswering,
}


def comparable(config):
    """The settings, without the path and the `auto_map` of a saved folder."""
    return {k: v for k, v in config.to_dict().items() if k not in ("auto_map", "_name_or_path")}


# ---- construction


def test_default_is_the_story_model():
    with torch.device("meta"):
        model = TinyLlamaForCausalLM(TinyLlamaConfig())
    assert model.num_parameters() == 24_557_120
    assert model.config.rope_parameters == {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
    }
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 0, 1)


def test_mlp_width_is_used_as_given():
    model = TinyLlamaForCausalLM(tiny_config(intermediate_size=45))
    assert model.model.layers[0].mlp.gate_proj.weight.shape == (45, 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"partial_rotary_factor": 1.0},
        {"rope_parameters": {"partial_rotary_factor": 1.0}},
        {"rope_parameters": {"partial_rotary_factor": 1.0}, "partial_rotary_factor": 1.0},
        {"rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": None, "type": "default"}},
        {"rope_scaling": {"partial_rotary_factor": 1.0, "rope_type": "default"}},
    ],
)
def test_rotary_factor_is_accepted_in_every_place(settings):
    config = tiny_config(**settings)
    expected = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    assert config.rope_parameters == expected
    assert "partial_rotary_factor" not in {k for k in config.to_dict() if k != "rope_parameters"}
    assert tiny_config(**config.to_dict()).rope_parameters == expected


def test_the_rope_dictionary_of_the_caller_is_not_changed():
    shared = {"rope_type": "linear", "factor": 2.0}
    tiny_config(rope_parameters=shared, partial_rotary_factor=1.0)
    assert shared == {"rope_type": "linear", "factor": 2.0}
    assert tiny_config(rope_parameters=shared).rope_parameters["partial_rotary_factor"] == 0.5


def test_unusual_but_valid_numbers_are_accepted():
    """Values that transformers' own tests set; only values that cannot work are refused."""
    config = tiny_config(rms_norm_eps=1.0, initializer_range=0.0, attention_dropout=0)
    assert TinyLlamaForCausalLM(config).model.norm.variance_epsilon == 1.0


def test_attributes_can_be_set_later():
    config = tiny_config()
    config.hidden_size, config.num_attention_heads, config.pad_token_id = 64, 8, None
    assert TinyLlamaForCausalLM(config).model.embed_tokens.padding_idx is None


def test_a_later_rope_dictionary_keeps_theta_and_rotary_factor():
    config = tiny_config(rope_theta=500.0)
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0}
    assert config.rope_parameters == {
        "rope_type": "linear",
        "factor": 2.0,
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.5,
    }
    config.rope_parameters = {"rope_type": "default", "rope_theta": 7.0, "partial_rotary_factor": 1.0}
    assert config.rope_parameters["rope_theta"] == 7.0
    assert config.rope_parameters["partial_rotary_factor"] == 1.0


# ---- refusals: the field, and what to change


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"hidden_size": 33}, "`hidden_size` (33) set `hidden_size` to 32"),
        ({"num_key_value_heads": 3}, "`num_key_value_heads` (3) to one of 1, 2, 4"),
        ({"head_dim": 6}, "rotates 3 dimensions pairs even"),
        ({"partial_rotary_factor": 0.01}, "rotates 0 dimensions"),
        ({"partial_rotary_factor": 0.0}, "(0, 1] 0.0 1.0"),
        ({"partial_rotary_factor": 1.5}, "(0, 1] 1.5"),
        ({"partial_rotary_factor": -0.5}, "(0, 1]"),
        ({"partial_rotary_factor": float("nan")}, "(0, 1] nan"),
        ({"partial_rotary_factor": "half"}, "(0, 1] 'half'"),
        ({"rope_parameters": {"partial_rotary_factor": 2}}, "(0, 1] 2"),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}}, "0.5 1.0 remove one"),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "`rope_theta` 5.0 6.0 remove one"),
        ({"rope_parameters": {"rope_type": "foo"}}, "'foo' default linear yarn"),
        ({"rope_parameters": {"type": "foo"}}, "'foo' default"),
        ({"rope_parameters": "linear"}, "`rope_parameters` dictionary 'linear'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": None}}, "'linear' factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": float("inf")}}, "`factor` above 0 inf"),
        ({"rope_theta": float("nan")}, "`rope_theta` nan"),
        ({"rope_theta": 0}, "`rope_theta` above 0"),
        ({"hidden_act": "sillu"}, "`hidden_act` 'sillu' 'silu'"),
        ({"hidden_act": None}, "`hidden_act` None"),
        ({"num_attention_heads": 0}, "`num_attention_heads` at least 1"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers` at least 1"),
        ({"vocab_size": 96.0}, "`vocab_size` whole number 96.0"),
        ({"hidden_size": "32"}, "`hidden_size` whole number '32'"),
        ({"intermediate_size": True}, "`intermediate_size` True"),
        ({"max_position_embeddings": None}, "`max_position_embeddings` None"),
        ({"rms_norm_eps": float("inf")}, "`rms_norm_eps` inf"),
        ({"rms_norm_eps": -1e-6}, "`rms_norm_eps`"),
        ({"initializer_range": float("nan")}, "`initializer_range` nan"),
        ({"attention_dropout": 1.0}, "`attention_dropout` [0, 1)"),
        ({"resid_pdrop": -0.1}, "`resid_pdrop` at least 0"),
        ({"tie_word_embeddings": "false"}, "`tie_word_embeddings` True or False 'false'"),
        ({"pad_token_id": 96}, "`pad_token_id` 0 to 95 96 tokenizer None"),
        ({"pad_token_id": -1}, "`pad_token_id` -1"),
        ({"eos_token_id": [0, 200]}, "`eos_token_id` 200"),
        ({"bos_token_id": 96}, "`bos_token_id` 96"),
    ],
    ids=str,
)
def test_invalid_settings_are_refused_with_a_valid_value(settings, words):
    with pytest.raises(ValueError) as refusal:
        tiny_config(**settings)
    for word in words.split():
        assert word in str(refusal.value)


@pytest.mark.parametrize("rope_type", ROPE_REQUIRED_KEYS)
def test_a_rope_type_without_its_required_keys_is_refused(rope_type):
    with pytest.raises(ValueError, match=rope_type) as refusal:
        tiny_config(rope_parameters={"rope_type": rope_type})
    for key in ROPE_REQUIRED_KEYS[rope_type]:
        assert key in str(refusal.value)


def test_building_and_saving_check_fields_that_were_set_later(tmp_path):
    config = tiny_config()
    config.num_key_value_heads = 3
    with pytest.raises(ValueError, match="num_key_value_heads"):
        TinyLlamaForCausalLM(config)
    with pytest.raises(ValueError, match="num_key_value_heads"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_pruned_vocabulary_can_still_be_saved(tmp_path):
    model = TinyLlamaForCausalLM(tiny_config(eos_token_id=90))
    model.resize_token_embeddings(50)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    with pytest.raises(ValueError, match="eos_token_id"):
        TinyLlamaForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("ids", [None, [0, 5]])
def test_no_or_several_eos_tokens_are_allowed(ids):
    assert tiny_config(eos_token_id=ids, pad_token_id=None).eos_token_id == ids


# ---- round trips


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"partial_rotary_factor": 1.0},
        {"rope_theta": 123.0, "head_dim": 16, "num_key_value_heads": 4, "tie_word_embeddings": False},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        {"pad_token_id": None, "eos_token_id": [0, 3], "attention_bias": True, "num_labels": 5, "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_round_trips_are_exact(settings, tmp_path):
    config = tiny_config(**settings)
    assert TinyLlamaConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    before = comparable(config)
    config.save_pretrained(tmp_path)
    assert comparable(config) == before
    for loaded in (TinyLlamaConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is TinyLlamaConfig
        assert comparable(loaded) == before
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert (again / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_config_json_contains_each_setting_once(tmp_path):
    tiny_config(partial_rotary_factor=1.0).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["rope_parameters"]["partial_rotary_factor"] == 1.0
    assert not {"partial_rotary_factor", "rope_theta", "rope_scaling"} & set(saved)


# ---- Auto classes, where the package is imported


def test_auto_map_names_every_registered_head():
    named = {name: reference.split(".") for name, reference in AUTO_MAP.items()}
    assert named.pop("AutoConfig") == ["configuration_tinyllama", "TinyLlamaConfig"]
    assert named == {auto.__name__: ["modeling_tinyllama", head.__name__] for auto, head in HEADS.items()}


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
@pytest.mark.parametrize("auto_class", HEADS, ids=lambda c: c.__name__)
def test_a_saved_folder_loads_without_a_confirmation_prompt(auto_class, trust_remote_code, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to trust the code"))
    TinyLlamaForCausalLM(tiny_config()).save_pretrained(tmp_path)
    model = auto_class.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
    assert type(model) is HEADS[auto_class]


@pytest.mark.parametrize("auto_class", HEADS, ids=lambda c: c.__name__)
def test_every_head_saves_a_complete_folder(auto_class, tmp_path):
    auto_class.from_config(tiny_config()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    for module in ("configuration_tinyllama.py", "modeling_tinyllama.py"):
        shipped = Path(modeling_tinyllama.__file__).with_name(module)
        assert (tmp_path / module).read_text() == shipped.read_text()


# ---- a process in which the package does not exist

IN_CLEAN_ENVIRONMENT = """
    import importlib.abc, inspect, json, os, sys
    from pathlib import Path

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("modeling_tinyllama", "tinystories", "tokenization"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    try:
        import modeling_tinyllama
    except ModuleNotFoundError:
        pass
    else:
        sys.exit("the package is still importable")

    import torch, transformers
    from safetensors.torch import load_file

    folder, bare, out = sys.argv[1:]
    ids = torch.tensor([[0, 5, 6, 7, 8]])
    result = {}

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    result["config"] = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "auto_map")}
    result["signature"] = str(inspect.signature(type(config)))
    result["factor"] = config.rope_parameters["partial_rotary_factor"]

    try:
        transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        result["untrusted"] = "trust_remote_code" in str(error)

    # AutoModel last, because the heads must load without it.
    for name in sorted(json.loads(Path(folder, "config.json").read_text())["auto_map"], reverse=True):
        if name != "AutoConfig":
            head = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
            result[name] = type(head).__name__
            # Saved by the class that came out of the folder, and loaded once more.
            again = Path(out, name)
            head.save_pretrained(again)
            result["files " + name] = sorted(os.listdir(again))
            result["map " + name] = json.loads((again / "config.json").read_text())["auto_map"]
            second = getattr(transformers, name).from_pretrained(again, trust_remote_code=True)
            first, second = head.state_dict(), second.state_dict()
            result["same " + name] = first.keys() == second.keys() and all(
                torch.equal(first[key], second[key]) for key in first
            )

    saved = Path(out, "AutoModelForCausalLM")
    model = transformers.AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=True)
    with torch.no_grad():
        result["logits"] = model(ids).logits[0, -1].tolist()
    result["tokens"] = model.generate(ids, max_new_tokens=6, do_sample=False).tolist()

    bare_config = transformers.AutoConfig.from_pretrained(bare, trust_remote_code=True)
    scratch = transformers.AutoModelForCausalLM.from_config(bare_config, trust_remote_code=True)
    result["scratch"] = scratch.num_parameters()
    result["package"] = [name for name in sys.modules if name.partition(".")[0] == "modeling_tinyllama"]

    # The package can be imported after all, and takes over from what came out of the folder.
    sys.meta_path.pop(0)
    import modeling_tinyllama
    names = modeling_tinyllama.configuration_tinyllama.AUTO_MAP
    late = [getattr(transformers, name).from_pretrained(folder) for name in names]
    result["late"] = sorted({type(one).__module__.partition(".")[0] for one in late})
    print("RESULT" + json.dumps(result))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A saved model, with weights that differ from those of any initialisation."""
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(tiny_config(partial_rotary_factor=1.0, tie_word_embeddings=False)).eval()
    folder = tmp_path_factory.mktemp("run") / "my-run.v1"
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def clean_environment(trained, tmp_path_factory):
    """The results of a process without this package that uses that folder."""
    _, folder = trained
    away = tmp_path_factory.mktemp("elsewhere")
    tiny_config().save_pretrained(away / "bare")
    (away / "clean_environment.py").write_text(textwrap.dedent(IN_CLEAN_ENVIRONMENT))
    project = str(Path(modeling_tinyllama.__file__).parents[1])
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", project)]
    run = subprocess.run(
        [sys.executable, "clean_environment.py", str(folder), str(away / "bare"), str(away / "out")],
        cwd=away,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HOME": str(away / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.rpartition("RESULT")[2])


def test_a_clean_environment_never_imports_the_package(clean_environment):
    assert clean_environment["package"] == []


def test_a_clean_environment_must_trust_the_code(clean_environment):
    assert clean_environment["untrusted"]


def test_a_clean_environment_reads_the_same_configuration(trained, clean_environment):
    model, _ = trained
    expected = json.loads(json.dumps(comparable(model.config)))
    assert clean_environment["config"] == expected
    assert clean_environment["factor"] == 1.0
    assert clean_environment["signature"] == str(inspect.signature(TinyLlamaConfig))


@pytest.mark.parametrize("auto_class", HEADS, ids=lambda c: c.__name__)
def test_a_clean_environment_loads_and_saves_every_head(auto_class, clean_environment):
    name = auto_class.__name__
    assert clean_environment[name] == HEADS[auto_class].__name__
    assert {"config.json", "model.safetensors", "configuration_tinyllama.py", "modeling_tinyllama.py"} <= set(
        clean_environment["files " + name]
    )
    assert clean_environment["map " + name] == AUTO_MAP
    assert clean_environment["same " + name]


def test_a_clean_environment_computes_the_same(trained, clean_environment):
    model, _ = trained
    ids = torch.tensor([[0, 5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(clean_environment["logits"]), model(ids).logits[0, -1], atol=1e-5, rtol=0
        )
    assert clean_environment["tokens"] == model.generate(ids, max_new_tokens=6, do_sample=False).tolist()


def test_a_clean_environment_builds_a_model_from_a_saved_configuration(clean_environment):
    assert clean_environment["scratch"] == TinyLlamaForCausalLM(tiny_config()).num_parameters()


def test_the_package_replaces_the_code_of_a_folder_loaded_before(clean_environment):
    assert clean_environment["late"] == ["modeling_tinyllama"]


def test_checkpoints_of_the_trainer_are_complete(tmp_path):
    data = [{"input_ids": torch.arange(2, 10), "labels": torch.arange(2, 10)}] * 4
    trainer = transformers.Trainer(
        TinyLlamaForCausalLM(tiny_config()),
        transformers.TrainingArguments(
            tmp_path, max_steps=2, save_steps=1, per_device_train_batch_size=2, report_to=[], disable_tqdm=True
        ),
        train_dataset=data,
    )
    trainer.train()
    for step in (1, 2):
        files = set(os.listdir(tmp_path / f"checkpoint-{step}"))
        assert {"config.json", "configuration_tinyllama.py", "modeling_tinyllama.py"} <= files
