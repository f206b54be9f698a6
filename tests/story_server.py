"""A server in a thread, on 127.0.0.1, and a client for it."""

import http.client
import json
import re
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial

import torch
from transformers import AutoTokenizer

from tinystories.serving.app import create_app
from tinystories.serving.engine import Engine
from tinystories.serving.serve import Server, load, server_config
from tinystories.serving.settings import ServerSettings
from tinystories.story_template import StoryTemplate


PROMPT = "Once upon a time there was"


def instructed(run, folder, template="Words: {words}\nSummary: {summary}\nStory:"):
    """A copy of a run whose tokenizer has a template."""
    shutil.copytree(run, folder)
    tokenizer = AutoTokenizer.from_pretrained(run)
    StoryTemplate(template).add_to(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


class Answer:
    """A response that was read to its end."""

    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    def json(self):
        return json.loads(self.body)

    def events(self):
        """Pairs of an event's name and its data, which is parsed unless it is "[DONE]"."""
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        events = []
        for block in blocks:
            name, data = re.fullmatch(r"(?:event: (\w+)\n)?data: (.*)", block).groups()
            events.append((name, data if data == "[DONE]" else json.loads(data)))
        return events

    def story(self):
        """The text of `/generate`, and its last event."""
        *pieces, (name, done) = self.events()
        assert name == "done" and all(name is None for name, _ in pieces), self.body
        return "".join(piece["text"] for _, piece in pieces), done


class Client:
    """A client of the server at a port, which reads responses to their end."""

    def __init__(self, port, engine=None, host="127.0.0.1"):
        self.port, self.engine, self.url = port, engine, f"http://{host}:{port}"

    def open(self, path, body=None, headers=(), method=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **dict(headers)}
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers))
        return connection, connection.getresponse()

    def ask(self, path, body=None, headers=(), method=None):
        connection, response = self.open(path, body, headers, method)
        answer = Answer(response, response.read())
        connection.close()
        return answer

    def generate(self, prompt=PROMPT, headers=(), **options):
        return self.ask("/generate", {"prompt": prompt, **options}, headers)

    def complete(self, **options):
        return self.ask("/v1/completions", {"model": "tiny", "prompt": PROMPT, **options})

    def until(self, condition, seconds=20):
        """The first health report for which `condition` holds."""
        end = time.monotonic() + seconds
        while not condition(report := self.ask("/health").json()):
            assert time.monotonic() < end, report
            time.sleep(0.02)
        return report

    def socket(self, receive_buffer=None):
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(60)
        plain.connect(("127.0.0.1", self.port))
        return plain


@contextmanager
def running(run, slow=0.0, wait=True, loader=load, send_buffer=None, **changes):
    """A `Client` of a server in a thread.

    Args:
        slow: minimum time of a forward pass in seconds; if it is not 0, no story ends with EOS.
        send_buffer: approximate number of bytes that the system buffers for a client that does not read.
    """
    settings = ServerSettings(str(run), **{"rate_limit": "none", "device": "cpu", "drain_time": 5, **changes})

    def load_slowly():
        model, tokenizer = loader(settings)
        if slow:
            make_slow(model, slow, tokenizer.eos_token_id)
        return model, tokenizer

    engine = Engine(load_slowly, max_batch=settings.max_batch, max_queue=settings.max_queue)
    server = Server(engine, settings, server_config(create_app(engine, settings, "tiny"), settings))
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    thread = threading.Thread(target=partial(server.run, sockets=[listener]))
    thread.start()
    client = Client(listener.getsockname()[1], engine)
    client.server = server
    try:
        if wait:
            client.until(lambda report: report["status"] == "ready")
        yield client
    finally:
        engine.drain(0)
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def make_slow(model, seconds, end):
    """Make each forward pass take at least `seconds`, and never sample the token `end`."""
    model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    model.register_forward_hook(lambda model, inputs, output: _never(output.logits, end))


def _never(logits, token):
    logits[..., token] = -torch.inf
