"""The status verb: a readable table from the document, and one line when nothing or something else answers."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from click.testing import CliRunner

from nodedb_node.admin.facts import PeerFacts, State
from nodedb_node.admin.status import document
from nodedb_node.cli import status
from nodedb_node.config import Config, HttpSection, NodeSection
from nodedb_node.errors import Exit, StartError
from tests.admin.example import block, histogram, node, process, with_worker


@contextmanager
def answering(code: int, body: bytes) -> Iterator[str]:
    """A server on a free port that answers everything the same way; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence: a test's output is for failures."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def shown(made: object) -> str:
    with answering(200, msgspec.json.encode(made)) as address:
        return CliRunner().invoke(status.command, ["--http", address], standalone_mode=False).output


def test_a_healthy_node_in_a_table() -> None:
    facts = with_worker(
        0, counters=block({"store_rows": 12_345, "store_memory_bytes": 3 << 20}, wal_sync_us=histogram(100, 100, 5_000))
    )
    text = shown(document(facts, None)).splitlines()
    assert text[0].startswith("nodedb-node 1.2.3  ready, up 1 min 0 s, start 3")
    assert "limited by: none" in text
    columns = next(line for line in text if line.startswith("worker "))
    row = next(line for line in text if line.startswith("0 "))
    assert row.index("12345") + len("12345") == columns.index(" rows") + len(" rows")
    assert "3.0 MiB" in row and "<112 us" in row and "<5.1 ms" in row and "io_uring" in row


def test_what_is_wrong_is_said_before_the_tables() -> None:
    facts = node(workers=(process(1), process(2, state=State.DOWN, usage=None, pid=0, generation=3)))
    text = shown(document(facts, None))
    assert "NOT READY" in text.splitlines()[0]
    assert "not ready: worker-1: not running" in text
    assert text.index("not ready:") < text.index("process ")
    down = next(line for line in text.splitlines() if line.startswith("worker-1"))
    assert down.split()[:4] == ["worker-1", "down", "-", "2"]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (PeerFacts(insecure=True, insecure_warnings=3), "peers INSECURE: nobody is checked"),
        (PeerFacts(), "peers mtls, no certificate yet"),
        (PeerFacts(certificate_not_after_s=1_800_000_000, trust_generation=7), "ends 2027-01-15, trust generation 7"),
    ],
)
def test_how_peers_know_each_other(facts: PeerFacts, line: str) -> None:
    assert line in shown(document(node(peers=facts), None))


def test_json_is_the_document_as_received() -> None:
    body = msgspec.json.encode(document(node(), None))
    with answering(200, body) as address:
        result = CliRunner().invoke(status.command, ["--json", "--http", address], standalone_mode=False)
    assert result.output.encode() == body + b"\n"
    assert result.return_value == 0


def refusal(*arguments: str) -> StartError:
    result = CliRunner().invoke(status.command, list(arguments), standalone_mode=False)
    assert isinstance(result.exception, StartError), result.exception
    assert "\n" not in str(result.exception)
    return result.exception


def test_nothing_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = refusal("--http", f"127.0.0.1:{taken.getsockname()[1]}")
    assert error.code is Exit.UNAVAILABLE
    assert "no node answers on 127.0.0.1:" in str(error) and "Connection refused" in str(error)


@pytest.mark.parametrize(
    ("code", "body", "text"),
    [(404, b"", "answers 404"), (200, b"<html>", "not with a status"), (200, b'{"schema": 1}', "not with a status")],
)
def test_something_else_there(code: int, body: bytes, text: str) -> None:
    with answering(code, body) as address:
        error = refusal("--http", address)
    assert error.code is Exit.UNAVAILABLE
    assert text in str(error)


def test_something_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def hang_up() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"+PONG\r\n")

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = refusal("--http", f"127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert error.code is Exit.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "address"),
    [("6480", ("127.0.0.1", 6480)), (":1", ("127.0.0.1", 1)), ("h:2", ("h", 2)), ("[::1]:3", ("::1", 3))],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    assert status.parse(text) == address


@pytest.mark.parametrize("text", ["h", "h:", "h:x", "h:65536"])
def test_bad_address(text: str) -> None:
    with pytest.raises(StartError, match="expected HOST:PORT"):
        status.parse(text)


def test_address_from_the_configuration() -> None:
    assert status.configured(Config()) == ("127.0.0.1", 6480)
    assert status.configured(Config(node=NodeSection(bind="0.0.0.0"))) == ("127.0.0.1", 6480)
    assert status.configured(Config(http=HttpSection(bind="::", port=9))) == ("::1", 9)
    with pytest.raises(StartError, match="--http"):
        status.configured(Config(http=HttpSection(port=0)))


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "5 s"), (65, "1 min 5 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB")])
def test_sizes(count: int | None, text: str) -> None:
    assert status.bytes_text(count) == text
