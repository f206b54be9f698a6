"""Clients that are slow, broken or hostile: the server continues to serve the others."""

# ruff: noqa: E402  what the server needs is installed with an extra

import gc
import http.client
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest


for package in ("fastapi", "limits", "uvicorn"):
    pytest.importorskip(package)

import psutil
from story_server import PROMPT, running


@pytest.fixture(scope="module")
def server(tiny_run):
    with running(tiny_run, client_timeout=1.0, max_connections=60) as client:
        yield client


@pytest.fixture(autouse=True)
def still_serving(server):
    """After each attack, the same story is generated, and no request remains."""
    before = server.generate(seed=1, max_tokens=10)
    yield
    server.until(lambda report: report["running"] == report["queue"] == 0)
    assert server.generate(seed=1, max_tokens=10).story()[0] == before.story()[0]


def post(body, headers=b"", path=b"/generate"):
    """A request as bytes."""
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (
        path,
        len(body),
        headers,
        body,
    )


def answer(connection):
    """All that the server sends until it closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def status(received):
    return int(received.split(b" ", 2)[1]) if received else None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\xfd",
        b'{"prompt": "\xc3\x28"}',
        b'{"prompt": "\xed\xa0\x80"}',
        rb'{"prompt": "\ud800"}',
        b"null",
        b"[]",
        b'"prompt"',
        b'{"prompt": ' + b"[" * 50_000,
        b'{"a":' * 20_000,
        b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "prompt": {"a": "b"}}',
        b"\x00" * 1_000,
        "{'prompt': 'a'}".encode("utf-16"),
    ],
    ids=lambda body: repr(body[:16]),
)
@pytest.mark.parametrize("path", [b"/generate", b"/v1/completions"])
def test_garbage_bodies_are_invalid_input(path, body, server):
    with server.socket() as connection:
        connection.sendall(post(body, b"Connection: close\r\n", path))
        received = answer(connection)
    assert status(received) in (400, 422), received
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_random_bytes_instead_of_http(server):
    rng = random.Random(0)
    for _ in range(20):
        with server.socket() as connection:
            connection.sendall(rng.randbytes(rng.randrange(1, 3_000)) + b"\r\n\r\n")
            assert status(answer(connection)) in (400, None)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_ten_megabytes_is_refused(chunked, server):
    big = json.dumps({"prompt": "a" * 10_000_000}).encode()
    with server.socket() as connection:
        if chunked:
            connection.sendall(post(big).split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n")
            pieces = (
                b"%x\r\n%s\r\n" % (len(part), part) for part in (big[i : i + 65_536] for i in range(0, 10**7, 65_536))
            )
        else:
            pieces = [post(big)]
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:  # the server need not read it all
            pass
        received = answer(connection)
    assert status(received) == 413


def test_incomplete_requests_time_out(server):
    beginnings = [
        b"",
        b"GET / HT",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    ]
    connections = [server.socket() for _ in range(40)]
    began = time.monotonic()
    for place, connection in enumerate(connections):
        connection.sendall(beginnings[place % len(beginnings)])
    assert server.generate(max_tokens=5).status == 200
    for connection in connections:
        answer(connection)
        connection.close()
    assert 0.7 < time.monotonic() - began < 5


def test_a_request_sent_byte_by_byte_times_out(server):
    with server.socket() as connection:
        began = time.monotonic()
        with pytest.raises(OSError):
            for byte in post(json.dumps({"prompt": PROMPT}).encode()) * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.03)
        assert 0.7 < time.monotonic() - began < 5


@pytest.mark.slow
def test_the_client_timeout_does_not_end_a_story_or_a_second_request(tiny_run):
    """Waiting for the server does not count towards `client_timeout`."""
    with running(tiny_run, slow=0.03, client_timeout=0.4) as client:
        assert client.generate(max_tokens=60).story()[1]["completion_tokens"] == 60
        connection = http.client.HTTPConnection("127.0.0.1", client.port)
        for _ in range(3):
            connection.request("GET", "/health")
            kept = connection.sock
            assert json.loads(connection.getresponse().read())["status"] == "ready"
            time.sleep(0.3)
            assert connection.sock is kept
        connection.close()


LONG = {"model": "tiny", "prompt": PROMPT, "max_tokens": 110, "n": 16, "logprobs": 5, "stream": True}
END = b"data: [DONE]\n\n\r\n0\r\n\r\n"


def test_a_client_that_reads_nothing(tiny_run):
    """Its stories are generated, and its connection is closed after the timeout."""
    request = post(json.dumps(LONG).encode(), path=b"/v1/completions")
    with running(tiny_run, slow=1e-4, client_timeout=0.7, send_buffer=4_096) as client:
        connections = [client.socket(receive_buffer=4_096) for _ in range(3)]
        for connection in connections:
            connection.sendall(request)
        assert client.generate(max_tokens=50).status == 200
        client.until(lambda report: report["running"] == report["queue"] == 0)
        time.sleep(1.5)
        for connection in connections:
            received = answer(connection)
            assert status(received) == 200 and not received.endswith(END)
            connection.close()


@pytest.mark.slow
def test_a_slow_client_gets_everything(tiny_run):
    """Control: it reads a little at intervals, and takes far longer than `client_timeout` in total."""
    request = post(json.dumps(LONG).encode(), b"Connection: close\r\n", b"/v1/completions")
    with running(tiny_run, slow=1e-4, client_timeout=0.7, send_buffer=4_096) as client:
        with client.socket(receive_buffer=4_096) as connection:
            connection.sendall(request)
            began, received = time.monotonic(), b""
            while piece := connection.recv(4_096):
                received += piece
                time.sleep(0.01)
    assert received.endswith(END) and time.monotonic() - began > 1.4


def test_too_many_connections(server):
    connections = [server.socket() for _ in range(80)]
    try:
        refused = server.socket()
        refused.settimeout(0.5)
        received = refused.recv(1_000)
        assert status(received) == 503 and b"Retry-After" in received
        refused.close()
    finally:
        for connection in connections:
            connection.close()


def test_broken_connections(server):
    body = post(json.dumps({"prompt": PROMPT, "max_tokens": 100}).encode())
    rng = random.Random(1)
    for _ in range(40):
        connection = server.socket()
        connection.sendall(body)
        time.sleep(rng.random() * 0.02)
        if rng.random() < 0.5:  # with a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()


@pytest.mark.parametrize("count", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(count, server):
    """Stories with various settings; in a third of them, the client disconnects early."""

    def one(number):
        if number % 3 == 0:
            connection, response = server.open("/generate", {"prompt": PROMPT, "max_tokens": 100})
            response.readline()
            connection.close()
        elif number % 3 == 1:
            assert server.generate(f"{PROMPT} {number}", max_tokens=20).status == 200
        else:
            assert server.complete(prompt=f"One day {number}", max_tokens=20, n=2, logprobs=5).status == 200

    def used():
        gc.collect()
        return psutil.Process().memory_info().rss

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(30)))
        before = used()
        list(pool.map(one, range(count)))
    assert used() - before < 20e6
