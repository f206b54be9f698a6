"""The part of `verification.py` that runs in a clean environment: a script that nothing imports.

It reads a task as JSON from standard input (what to load, and the expected output) and prints the problems as JSON in
its last line. Modules named under `hidden` cannot be imported here even if they are installed, so that the model runs
with the code that was released with it or with that of transformers.
"""

import hashlib
import importlib
import json
import sys
from pathlib import Path


class HidingFinder:
    """A finder for `sys.meta_path` that makes the import of some modules fail."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide(names):
    sys.meta_path.insert(0, HidingFinder(names))
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{name} can be imported in this environment, so the verification would be meaningless")


def check_files(item):
    """Yield each published file that is not, byte for byte, the file of the release."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(item["source"], revision=item["revision"]))
    for name, digest in item["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name} differs from the release"


def check_model(item, subfolder, trust_remote_code):
    """Yield what differs in the model as a user loads it: settings, tokens, logits, and greedy text."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    source, expected = item["source"], item["expected"]
    options = {"revision": item["revision"] or "main", "trust_remote_code": trust_remote_code}
    model, report = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True, subfolder=subfolder, **options
    )
    tokenizer = AutoTokenizer.from_pretrained(source, subfolder=subfolder, **options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            names = sorted(map(str, report[kind]))[:3]
            yield f"the weights have {kind.replace('_', ' ')}: {', '.join(names)}"

    module = type(model).__module__
    if not module.startswith("transformers_modules." if trust_remote_code else "transformers.models."):
        yield f"the model's code was loaded from {module}"
    for owner, name, where in (
        (model.generation_config, "generation", "generation_config.json has"),
        (tokenizer, "tokenizer", "the tokenizer has"),
    ):
        for key, value in expected[name].items():
            if (found := getattr(owner, key)) != value:
                yield f"{where} {key} {found}, not {value}"
    if tokenizer(expected["text"])["input_ids"] != expected["ids"]:
        yield "the tokenizer splits text into different tokens"
        return

    logits = load_file(expected["logits"])["logits"]
    with torch.no_grad():
        found = model(torch.tensor([expected["ids"]])).logits[0]
    if found.shape != logits.shape:
        yield f"the logits have the shape {tuple(found.shape)}, not {tuple(logits.shape)}"
        return
    difference = (found - logits).abs().max().item()
    if not difference <= expected["tolerance"]:
        yield f"logits differ by up to {difference:.1e}"

    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": expected["new_tokens"]}
    output = model.generate(**tokenizer(expected["prompt"], return_tensors="pt"), **greedy)
    texts = {"generate()": tokenizer.decode(output[0], skip_special_tokens=True)}
    if subfolder:
        generator = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    else:
        generator = pipeline("text-generation", model=source, dtype=torch.float32, device="cpu", **options)
    texts["pipeline()"] = generator(expected["prompt"], **greedy)[0]["generated_text"]
    for name, text in texts.items():
        if text != expected["greedy"]:
            yield f"{name} generates {text[:80]!r}..., not {expected['greedy'][:80]!r}..."


def main():
    task = json.load(sys.stdin)
    hide(task["hidden"])
    problems = []
    for item in task["items"]:
        try:
            if item["files"] is not None:
                problems += [f"{item['name']}: {problem}" for problem in check_files(item)]
            for name, subfolder, trust_remote_code in item["formats"]:
                problems += [f"{name}: {problem}" for problem in check_model(item, subfolder, trust_remote_code)]
        except Exception as error:  # any exception would stop a user
            message = " ".join(str(error).split())[:300]
            problems.append(f"{item['name']}: {type(error).__name__}: {message}")
    print(json.dumps(problems))


if __name__ == "__main__":
    main()
