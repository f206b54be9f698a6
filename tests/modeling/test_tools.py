"""Tools that load a model folder: streaming, chat, `transformers serve`, lm-evaluation-harness, and parallelism plans.
Tests that need an additional package are skipped if it is not installed."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

import pytest
import torch
from helpers import tiny_config, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TextIteratorStreamer
from transformers import pipeline as make_pipeline

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM


ROOT = Path(__file__).parents[2]
PROMPT = "Once upon a time there was"
TRANSFORMERS = "from transformers.cli.transformers import main; main()"


# ---- streaming and chat


def test_streamed_text_is_the_whole_completion(tiny_run):
    storyteller = make_pipeline("text-generation", model=str(tiny_run))
    streamer = TextIteratorStreamer(storyteller.tokenizer, skip_special_tokens=True, timeout=60)
    options = {"do_sample": False, "max_new_tokens": 40}
    whole = storyteller(PROMPT, **options)[0]["generated_text"]
    thread = Thread(target=storyteller, args=(PROMPT,), kwargs={**options, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == whole and len([piece for piece in pieces if piece]) > 5


def test_a_chat_completes_the_last_user_message(tiny_run):
    storyteller = make_pipeline("text-generation", model=str(tiny_run))
    options = {"do_sample": False, "max_new_tokens": 20}
    story = storyteller(PROMPT, **options)[0]["generated_text"]
    chat = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "One day,"},
        {"role": "assistant", "content": " it rained. The end."},
        {"role": "user", "content": PROMPT},
    ]
    answer = storyteller(chat, **options)[0]["generated_text"][-1]
    assert answer["role"] == "assistant" and PROMPT + answer["content"] == story


# ---- transformers serve


@pytest.fixture
def serve(tmp_path):
    """A function that starts `transformers serve FOLDER` and returns a function that posts JSON to it."""
    for package in ("fastapi", "openai", "uvicorn"):
        pytest.importorskip(package)
    processes = []

    def start(folder, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = tmp_path / "serve.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", TRANSFORMERS, "serve", str(folder)),
                    *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *arguments),
                ],
                stdout=stream,
                stderr=stream,
                cwd=tmp_path,
            )
        processes.append(process)

        def post(path, **body):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}",
                data=json.dumps({"model": str(folder), **body}).encode() if body else None,
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.read().decode()

        post.url = f"http://127.0.0.1:{port}/v1"
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                post("/health")
                return post
            except urllib.error.URLError:
                time.sleep(0.1)
        pytest.fail(log.read_text()[-3000:])

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("stock", [False, True], ids=["run folder", "export"])
def test_transformers_serve_and_chat(stock, tiny_run, serve, tmp_path):
    folder, arguments = tiny_run, ["--trust-remote-code"]
    if stock:
        from tinystories.export.stock import export_stock

        folder, arguments = export_stock(tiny_run, tmp_path / "stock").folder, []
    post = serve(folder, *arguments)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_run), AutoTokenizer.from_pretrained(tiny_run)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    expected = tokenizer.decode(tokens, skip_special_tokens=True)

    greedy = {"max_tokens": 12, "temperature": 0}
    answer = json.loads(post("/v1/completions", prompt=PROMPT, **greedy))
    assert answer["choices"][0]["text"] == expected
    chat = [{"role": "user", "content": PROMPT}]
    answer = json.loads(post("/v1/chat/completions", messages=chat, **greedy))
    assert answer["choices"][0]["message"]["content"] == expected
    stream = post("/v1/chat/completions", messages=chat, stream=True, **greedy)
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(pieces) == expected and len(pieces) > 5

    # The chat uses the client of huggingface_hub, which in offline mode refuses connections to this machine, too.
    said = subprocess.run(
        [sys.executable, "-c", TRANSFORMERS, "chat", str(folder), post.url, "do_sample=False", "max_new_tokens=12"],
        input=f"{PROMPT}\nn\n!exit\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "COLUMNS": "200"},
    )
    assert " ".join(expected.split()) in " ".join(said.stdout.split()), said.stdout + said.stderr[-3000:]


# ---- lm-evaluation-harness


def test_lm_eval_measures_the_same_bits_per_byte(tiny_run, tmp_path):
    pytest.importorskip("lm_eval")
    subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf"),
            *("--model_args", f"pretrained={tiny_run},trust_remote_code=True,add_bos_token=False"),
            *("--include_path", "tests/lm_eval_tasks", "--tasks", "story_bits_per_byte,story_pairs"),
            *("--device", "cpu", "--batch_size", "2", "--output_path", str(tmp_path)),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_run), AutoTokenizer.from_pretrained(tiny_run)

    def nats(text):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)

    def lines(name):
        return [json.loads(line) for line in (ROOT / "tests" / "lm_eval_tasks" / name).read_text().splitlines()]

    texts = [story["text"] for story in lines("stories.jsonl")]
    assert max(len(tokenizer(text)["input_ids"]) for text in texts) <= model.config.max_position_embeddings
    bits = sum(map(nats, texts)) / math.log(2) / sum(len(text.encode()) for text in texts)
    assert results["story_bits_per_byte"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)
    pairs = lines("pairs.jsonl")
    right = sum(nats(pair["good"]) < nats(pair["bad"]) for pair in pairs) / len(pairs)
    assert results["story_pairs"]["acc,none"] == pytest.approx(right)


# ---- parallelism plans


def test_parallelism_plans_equal_those_of_llama():
    assert TinyLlamaConfig.base_model_tp_plan == LlamaConfig.base_model_tp_plan
    assert TinyLlamaConfig.base_model_pp_plan == LlamaConfig.base_model_pp_plan
    for plan in ("_tp_plan", "_pp_plan", "_fsdp_plan"):
        assert getattr(TinyLlamaForCausalLM, plan) == getattr(LlamaForCausalLM, plan)


@pytest.mark.parametrize("tied", [True, False])
def test_the_tensor_parallel_plan_names_every_matrix_once(tied):
    model = TinyLlamaForCausalLM(tiny_config(tie_word_embeddings=tied))
    matrices = {name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}
    patterns = [re.escape(pattern).replace(r"\*", r"\d+") for pattern in model.tp_plan]
    named = [[name for name in matrices if re.fullmatch(pattern, name)] for pattern in patterns]
    # Before 5.23, transformers does not shard an embedding that is not tied to the head.
    whole = set() if "model.embed_tokens" in model.tp_plan or tied else {"model.embed_tokens"}
    assert all(named) and sorted(sum(named, [])) == sorted(matrices - whole)


def test_the_pipeline_plan_names_the_parts_in_order():
    model = TinyLlamaForCausalLM(tiny_config())
    parts = [f"model.{name}" for name, _ in model.model.named_children() if name != "rotary_emb"]
    assert [f"model.{name}" for name in model.config.base_model_pp_plan] == parts
    assert set(model.pp_plan) == {*parts, "lm_head"}


@pytest.mark.slow
def test_two_processes_share_the_model_and_give_the_same_logits(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "share.py").write_text(
        textwrap.dedent("""
            import torch, torch.distributed as dist
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True, tp_plan="auto").eval()
            ids = torch.arange(2, 42).reshape(2, 20)
            with torch.no_grad():
                logits = model(ids).logits
            weight = model.model.layers[0].self_attn.q_proj.weight
            rows = weight.to_local().shape[0] if hasattr(weight, "to_local") else weight.shape[0]
            if dist.get_rank() == 0:
                torch.save((logits, rows), "shared.pt")
            dist.destroy_process_group()
        """)
    )
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "share.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    logits, rows = torch.load(tmp_path / "shared.pt")
    assert rows == 16, "each process holds half of the 32 rows"
    with torch.no_grad():
        torch.testing.assert_close(logits, model(torch.arange(2, 42).reshape(2, 20)).logits, atol=1e-5, rtol=0)


# ---- TRL


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
def test_the_sft_trainer_of_trl_fine_tunes_a_run_folder(tiny_run, lora, tmp_path):
    trl = pytest.importorskip("trl")
    import datasets

    page = (ROOT / "docs" / "finetuning.md").read_text("utf-8")
    code = re.search(r"(?ms)^```py\n(.*?)^```", page)[1]
    code = code.replace("runs/quickstart", str(tiny_run)).replace("runs/sft", str(tmp_path / "sft"))
    code = code.replace("peft_config=None", f"peft_config={'LoraConfig(**settings)' if lora else None}")
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
    names = {"trl": trl, "datasets": datasets, "settings": settings}
    if lora:
        names["LoraConfig"] = pytest.importorskip("peft").LoraConfig
    exec(compile(code, "finetuning.md", "exec"), names)
    row = next(iter(names["trainer"].get_train_dataloader()))
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    for ids, labels in zip(row["input_ids"].tolist(), row["labels"].tolist(), strict=True):
        scored = [token for token in labels if token != -100]
        assert ids[0] == tokenizer.bos_token_id and scored[-1] == tokenizer.eos_token_id, "begins and ends as here"
    assert (tmp_path / "sft" / ("adapter_model.safetensors" if lora else "model.safetensors")).is_file()
