"""Throughput, latency, memory and robustness of `tinystories serve`, measured on one machine.

    python benchmarks/serving.py runs/quickstart
    python benchmarks/serving.py --untrained 24m --peers

- Load: 1, 8 and 32 concurrent clients; each sends its next request when its story is complete. Measured are the time
  to the first text (TTFT; p50 and p95), the tokens per second of a stream (p50 and p5), and those of all streams
  together.
- Memory: resident memory of the server over 1,000 requests, a fifth of which disconnect early.
- Attack: slow readers, incomplete requests, random bytes, invalid UTF-8 and bodies of 10 MB, while ordinary clients
  send requests, all of which must be served.
- `--peers`: the same model without a server: `generate()` with native decoding for one prompt at a time, and
  `generate_batch()` of transformers (continuous batching) for 8 and 32 prompts.

`--untrained SIZE` uses random weights of a size in `tinystories/sizes.py`, with the tokenizer of the run if one is
given. The speed is that of trained weights, except that EOS is not generated. Clients and server share the cores.
"""

import argparse
import asyncio
import collections
import itertools
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from figures import describe_machine, save_json
from transformers import GenerationConfig
from untrained import untrained_run

from tinystories.generation.batch import PROMPTS
from tinystories.generation.generate import preset_config, temporary_generation_config
from tinystories.runs.loading import load_model
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character


@dataclass
class StreamedStory:
    """One story as received by a client: seconds to the first text and to the end; no tokens if it was refused."""

    status: int
    first: float = 0.0
    seconds: float = 0.0
    tokens: int = 0


class Clients:
    def __init__(self, port: int, tokens: int):
        self.port, self.tokens = port, tokens
        self.numbers = itertools.count()

    async def send(self, body: bytes, extra: bytes = b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        head = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(head + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return reader, writer

    def request_body(self) -> bytes:
        number = next(self.numbers)
        body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "max_tokens": self.tokens}
        return json.dumps({**body, "preset": "balanced"}).encode()

    async def story(self, disconnect_after: int | None = None) -> StreamedStory:
        began = time.perf_counter()
        reader, writer = await self.send(self.request_body())
        status = int((await reader.readline()).split()[1])
        story, pieces = StreamedStory(status), 0
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            pieces += 1
            story.first = story.first or time.perf_counter() - began
            story.tokens = json.loads(line[6:]).get("completion_tokens", 0)
            if pieces == disconnect_after:
                break
        story.seconds = time.perf_counter() - began
        writer.close()
        return story

    async def load(self, seconds: float, streams: int) -> list[StreamedStory]:
        """The stories of `streams` clients, each of which sends requests for `seconds`."""
        end = time.perf_counter() + seconds

        async def client() -> list[StreamedStory]:
            stories = []
            while time.perf_counter() < end:
                stories.append(await self.story())
            return stories

        return [story for stories in await asyncio.gather(*(client() for _ in range(streams))) for story in stories]


@contextmanager
def serving(run: str, *options: str):
    """`tinystories serve` in a process of its own; yields the process and its port."""
    command = [sys.executable, "-m", "tinystories.cli", "serve", run, "--port", "0", "--rate-limit", "none", *options]
    with tempfile.NamedTemporaryFile("r") as log:
        process = subprocess.Popen(command, stdout=open(log.name, "w"), stderr=subprocess.STDOUT)
        try:
            text = ""
            while "\nready" not in text:
                if process.poll() is not None:
                    raise SystemExit(text[-3000:])
                time.sleep(0.1)
                text += log.read()
            yield psutil.Process(process.pid), int(re.search(r"http://127\.0\.0\.1:(\d+)", text)[1])
        finally:
            process.terminate()
            process.wait(60)


def load_figures(clients: Clients, streams: int, seconds: float) -> dict:
    asyncio.run(clients.load(0.5, streams))
    began = time.perf_counter()
    stories = asyncio.run(clients.load(seconds, streams))
    wall = time.perf_counter() - began
    good = [story for story in stories if story.status == 200]
    rates = [story.tokens / max(1e-9, story.seconds - story.first) for story in good]
    return {
        "streams": streams,
        "stories": len(good),
        "refused": len(stories) - len(good),
        "first_p50_ms": 1000 * statistics.median(story.first for story in good),
        "first_p95_ms": 1000 * percentile([story.first for story in good], 95),
        "stream_p50": statistics.median(rates),
        "stream_p5": percentile(rates, 5),
        "all": sum(story.tokens for story in good) / wall,
    }


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def memory_figures(clients: Clients, process: psutil.Process, requests: int) -> list[float]:
    """Resident megabytes before and after each tenth of the requests, sixteen of which run concurrently."""

    async def send(count: int) -> None:
        left = iter(range(count))

        async def client() -> None:
            for number in left:
                await clients.story(disconnect_after=3 if number % 5 == 0 else None)

        await asyncio.gather(*(client() for _ in range(16)))

    asyncio.run(send(64))
    sizes = [process.memory_info().rss / 1e6]
    for _ in range(10):
        asyncio.run(send(requests // 10))
        sizes.append(process.memory_info().rss / 1e6)
    return sizes


def attack_figures(clients: Clients, seconds: float) -> tuple[list[StreamedStory], collections.Counter]:
    """The stories of four ordinary clients during the attack, and the responses to the attackers."""
    answers, rng = collections.Counter(), random.Random(0)
    end = time.perf_counter() + seconds

    async def answer(kind: str, reader, writer) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 60)
            answers[kind, line.split()[1].decode() if line else "closed"] += 1
        except OSError:
            answers[kind, "closed"] += 1
        writer.close()

    async def bad_body(kind: str, body: bytes, pause: float) -> None:
        while time.perf_counter() < end:
            await answer(kind, *await clients.send(body))
            await asyncio.sleep(pause)

    async def incomplete_request() -> None:
        while time.perf_counter() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", clients.port)
            writer.write(rng.choice([b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]))
            await answer("incomplete request", reader, writer)

    async def slow_reader() -> None:
        while time.perf_counter() < end:
            _, writer = await clients.send(clients.request_body())
            await asyncio.sleep(seconds / 3)
            writer.transport.abort()
            answers["slow reader", "left"] += 1

    async def attack() -> list[StreamedStory]:
        garbage = [
            ("not JSON", rng.randbytes(500)),
            ("invalid UTF-8", b'{"prompt": "\xff\xfe"}'),
            ("nested", b"[" * 100_000),
        ]
        attackers = [bad_body(kind, body, 0.05) for kind, body in garbage]
        attackers += [bad_body("10 MB", b'{"prompt": "' + b"a" * 10_000_000 + b'"}', 0.5)]
        attackers += [incomplete_request() for _ in range(64)] + [slow_reader() for _ in range(8)]
        ordinary, *_ = await asyncio.gather(clients.load(seconds, 4), *attackers)
        return ordinary

    return asyncio.run(attack()), answers


def peer_figures(run: str, tokens: int) -> list[tuple[str, float]]:
    """Tokens per second of the same model without a server."""
    model, tokenizer = load_model(run)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS * 2]
    figures = []
    config = preset_config("balanced", tokenizer, tokens)
    with temporary_generation_config(model, config):
        began = time.perf_counter()
        written = sum(
            model.generate(torch.tensor([ids]), generation_config=config).shape[1] - len(ids) for ids in prompts[:8]
        )
        figures.append(("generate, one prompt at a time", written / (time.perf_counter() - began)))
    greedy = GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=0, pad_token_id=1)
    for count in (8, 32):
        began = time.perf_counter()
        outputs = model.generate_batch(prompts[:count], generation_config=greedy, progress_bar=False)
        written = sum(len(output.generated_tokens) for output in outputs.values())
        figures.append((f"generate_batch, {count} greedy stories", written / (time.perf_counter() - began)))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="run folder")
    parser.add_argument("--untrained", choices=SIZES, help="use random weights of this size")
    parser.add_argument(
        "--streams", default="1,8,32", help="numbers of concurrent clients, comma-separated (default: 1,8,32)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="duration of each measurement (default: 10)")
    parser.add_argument("--tokens", type=int, default=100, help="maximum number of new tokens (default: 100)")
    parser.add_argument(
        "--requests", type=int, default=1000, help="requests of the memory measurement; 0 skips it (default: 1000)"
    )
    parser.add_argument("--max-batch", default="32", help="batch size of the server (default: 32)")
    parser.add_argument("--no-attack", action="store_true", help="skip the measurement with invalid requests")
    parser.add_argument("--peers", action="store_true", help="also measure the model without the server")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()
    if not (options.run or options.untrained):
        parser.error("a model is needed: a run folder or --untrained SIZE")

    folder = tempfile.mkdtemp()
    run = str(untrained_run(Path(folder), options.untrained, options.run)) if options.untrained else options.run
    figures = {"run": options.untrained or options.run, "max_batch": options.max_batch}
    print(describe_machine())
    try:
        with serving(run, "--max-batch", options.max_batch) as (process, port):
            clients = Clients(port, options.tokens)
            print(f"{figures['run']}, up to {options.tokens} tokens per story, batch size {options.max_batch}")
            print("streams  stories  refused         TTFT p50, p95 (ms)  stream p50, p5 (tokens/s)  total (tokens/s)")
            figures["load"] = [load_figures(clients, int(n), options.seconds) for n in options.streams.split(",")]
            for row in figures["load"]:
                print(
                    f"{row['streams']:7d}  {row['stories']:7d}  {row['refused']:7d}  "
                    f"{row['first_p50_ms']:12.0f} {row['first_p95_ms']:12.0f}  "
                    f"{row['stream_p50']:12.1f} {row['stream_p5']:12.1f}  {row['all']:14.1f}"
                )
            if options.requests:
                sizes = figures["memory_mb"] = memory_figures(clients, process, options.requests)
                print(f"memory over {options.requests} requests (MB): " + " ".join(f"{size:.0f}" for size in sizes))
            if not options.no_attack:
                ordinary, answers = attack_figures(clients, options.seconds)
                served = [story for story in ordinary if story.tokens]
                print(f"under attack {len(served)} of {len(ordinary)} ordinary stories were complete, TTFT p95 "
                      f"{1000 * percentile([story.first for story in served], 95):.0f} ms")  # fmt: skip
                for (kind, answer), count in sorted(answers.items()):
                    print(f"    {kind}: {answer}, {count} times")
                figures["attack"] = {"served": len(served), "ordinary": len(ordinary)}
        if options.peers:
            figures["peers"] = peer_figures(run, options.tokens)
            for name, rate in figures["peers"]:
                print(f"{name}: {rate:.1f} tokens/s")
    finally:
        shutil.rmtree(folder)
    save_json(options.json, **figures)


if __name__ == "__main__":
    print_any_character()
    main()
