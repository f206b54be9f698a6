"""What a stranger's process finds in a release: run as a script, never imported by the rest of the project.

It reads from standard input, as JSON, what to load and what must come out, and prints what is wrong as JSON in its
last line. It imports transformers and nothing of ours: the modules named under `hidden` cannot be imported here, even
where the package is installed, so that the model runs on the code that was released with it or on transformers' own.
"""

import hashlib
import importlib
import json
import sys
from pathlib import Path


class Hidden:
    """A finder in front of all others, for which some modules do not exist."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide(names):
    sys.meta_path.insert(0, Hidden(names))
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{name} can be imported here, so this check would show nothing")


def check_files(item):
    """What was published is, byte for byte, what was meant to be."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(item["source"], revision=item["revision"]))
    for name, digest in item["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name} is another file"


def check_model(item, expected, logits):
    """The model as a user loads it: its logits, and its greedy text by `generate` and by `pipeline`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    where = {"revision": item["revision"] or "main", "trust_remote_code": item["trust_remote_code"]}
    inside = {**where, "subfolder": item["subfolder"]}
    model, report = AutoModelForCausalLM.from_pretrained(
        item["source"], dtype=torch.float32, output_loading_info=True, **inside
    )
    tokenizer = AutoTokenizer.from_pretrained(item["source"], **inside)
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(trouble):
            names = sorted(map(str, report[trouble]))[:3]
            yield f"weights with {trouble.replace('_', ' ')}: {', '.join(names)}"

    source = type(model).__module__
    if not source.startswith("transformers_modules." if item["trust_remote_code"] else "transformers.models."):
        yield f"the model's code was taken from {source}"
    for name, value in expected["generation"].items():
        if getattr(model.generation_config, name) != value:
            yield f"generation_config.json says {name} {getattr(model.generation_config, name)}, not {value}"
    for name, value in expected["tokenizer"].items():
        if getattr(tokenizer, name) != value:
            yield f"the tokenizer's {name} is {getattr(tokenizer, name)}, not {value}"
    if tokenizer(expected["text"])["input_ids"] != expected["ids"]:
        yield "the tokenizer cuts a text into other tokens"
        return

    with torch.no_grad():
        found = model(torch.tensor([expected["ids"]])).logits[0]
    if found.shape != logits.shape:
        yield f"the logits have the shape {tuple(found.shape)}, not {tuple(logits.shape)}"
        return
    difference = (found - logits).abs().max().item()
    if not difference <= expected["tolerance"]:
        yield f"logits differ by up to {difference:.1e}"

    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": expected["new_tokens"]}
    written = model.generate(**tokenizer(expected["prompt"], return_tensors="pt"), **greedy)
    if (text := tokenizer.decode(written[0], skip_special_tokens=True)) != expected["greedy"]:
        yield f"generate() writes {text[:80]!r}..., not {expected['greedy'][:80]!r}..."
    if item["subfolder"]:
        storyteller = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    else:
        storyteller = pipeline("text-generation", model=item["source"], dtype=torch.float32, device="cpu", **where)
    if (text := storyteller(expected["prompt"], **greedy)[0]["generated_text"]) != expected["greedy"]:
        yield f"pipeline() writes {text[:80]!r}..., not {expected['greedy'][:80]!r}..."


def main():
    task = json.load(sys.stdin)
    hide(task["hidden"])
    from safetensors.torch import load_file

    problems = []
    for item in task["items"]:
        try:
            if item["files"] is not None:
                problems += [f"{item['name']}: {problem}" for problem in check_files(item)]
            for form in item["forms"]:
                expected = item["expected"]
                for problem in check_model({**item, **form}, expected, load_file(expected["logits"])["logits"]):
                    problems.append(f"{form['name']}: {problem}")
        except Exception as error:  # whatever stops a user is what this is here to find
            said = " ".join(str(error).split())[:300]
            problems.append(f"{item['name']}: {type(error).__name__}: {said}")
    print(json.dumps(problems))


if __name__ == "__main__":
    main()
