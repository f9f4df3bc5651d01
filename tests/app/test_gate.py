"""What strangers may ask of a page: no file of the server, nothing without bounds, nothing from other sites."""

import asyncio
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image
from serving import DISGUISES, SERVER, files_in, free_port, launched, served, start, wait_until

from gra_core.ui import page, private_logging, strings
from gra_core.ui.gate import CALL, FILE, LARGEST_BODY, PREFIX, QUEUE, UPLOAD, Gate, Rules
from gra_core.ui.received import Received

MARK = b"the secret of the server"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def address(place):
    with served(place, [SERVER]) as found:
        yield found


@pytest.fixture(scope="module")
def config(address) -> dict:
    return httpx.get(f"{address}/config").json()


def answer_of(address: str, function: dict, data: list, **more: object) -> str:
    """All that the server says to an event of the page."""
    session = f"walker{time.monotonic_ns()}"
    event = {"fn_index": function["id"], "session_hash": session, "data": data, **more}
    joined = httpx.post(address + QUEUE, json=event)
    if joined.status_code != 200:
        return joined.text
    said = ""
    with httpx.stream("GET", f"{address}{PREFIX}/queue/data", params={"session_hash": session}, timeout=60) as stream:
        for line in stream.iter_lines():
            said += line
            if "process_completed" in line:
                break
    return said


# --- files of the server -------------------------------------------------------------------------------------------


def test_no_function_and_no_endpoint_reads_a_file_of_the_server(address, config, place):
    """Every function of the page, with paths in all its inputs and in what it is told of the event."""
    secret = place / "authorized.webp"
    secret.write_bytes(MARK)
    Image.new("RGB", (8, 8)).save(place / "photo.png")
    (place / "photo.png").write_bytes((place / "photo.png").read_bytes() + MARK)
    link = place / "link.npy"
    link.symlink_to(secret)
    named = [name for function in config["dependencies"] if (name := function["api_name"])]
    assert {"align", "edit", "edits"} <= set(named)
    assert len(config["dependencies"]) > 40
    paths = (secret, place / "photo.png", link, Path("/etc/passwd"), Path("/proc/self/environ"))
    said = [(path, disguise(path)) for path in paths for disguise in (DISGUISES if path == secret else DISGUISES[:2])]

    def walk(function: dict) -> None:
        for path, named in said:
            event = {"index": 0, "value": named, "file": {"path": str(path), "orig_name": path.name, "size": 1}}
            shown = answer_of(address, function, [named] * len(function["inputs"]), event_data=event)
            assert MARK.decode() not in shown
            assert "root:" not in shown

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(walk, config["dependencies"]))
    for path in paths:
        for name, more in (("align", [0]), ("edit", [{"smile": 60}, 0, False, "png"])):
            image = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
            assert httpx.post(f"{address}{CALL}{name}", json={"data": [image, *more]}).status_code == 400
    copies = [file for file in files_in(place) if MARK in file.read_bytes() or b"root:" in file.read_bytes()]
    assert copies == []
    assert all(file.exists() for file in (secret, link, place / "photo.png"))


@pytest.mark.parametrize(
    "path",
    [
        f"{FILE}/etc/passwd",
        f"{FILE}{{folder}}/../../authorized.webp",
        f"{FILE}{{folder}}/%2e%2e/lock",
        f"{FILE}http://127.0.0.1:1/",
        f"{FILE}file:///etc/passwd",
        f"{PREFIX}/file/etc/passwd",
        f"{PREFIX}/proxy=http://127.0.0.1:1/",
        f"{PREFIX}/custom_component/a/b/c/..%2f..%2fetc",
        f"{PREFIX}/stream/a/b/1/playlist-file",
        "/static/../../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/pwa_icon/20000",
        "/monitoring",
    ],
)
def test_gradios_own_routes_give_nothing_away(address, place, path):
    (folder,) = (place / "gradio").glob("*/files")
    (place / "authorized.webp").write_bytes(MARK)
    host, port = address.removeprefix("http://").split(":")
    request = f"GET {path.format(folder=folder)} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:  # clients would tidy the path up
        connection.sendall(request.encode())
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.split()[1] in (b"403", b"404")
    assert MARK not in said
    assert b"root:" not in said


def test_what_was_uploaded_has_a_place_that_nobody_can_guess(address, photo_file):
    files = {"files": ("me.png", photo_file.read_bytes(), "image/png")}
    told = [httpx.post(address + UPLOAD, files=files).json()[0] for _ in range(2)]
    assert told[0] != told[1]
    assert all(len(Path(path).parent.name) == 32 and Path(path).name == "me.png" for path in told)
    assert httpx.get(f"{address}{FILE}{told[0]}").content == photo_file.read_bytes()


@pytest.mark.parametrize("name", ["", " ", "/", "..", "a" * 400, "\x00.png", "nul\\..\\x.png", "é́😀.png"])
def test_a_file_may_have_any_name(address, name):
    answer = httpx.post(address + UPLOAD, files={"files": (name, b"content", "image/png")})
    assert answer.status_code in (200, 400)


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_a_request_has_a_size(address):
    event = {"fn_index": 0, "session_hash": "me", "data": ["x" * LARGEST_BODY]}
    answer = httpx.post(address + QUEUE, json=event)
    assert (answer.status_code, answer.json()["detail"]) == (413, strings.TOO_LARGE)
    parts = iter([b'{"data": ["'] + [b"x" * 100_000] * 40)
    assert httpx.post(address + QUEUE, content=parts).status_code == 413  # a length was not said


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("[" * 100_000, 400),
        ("{}", 400),
        ('{"data": {}}', 400),
        ("not json", 400),
        ('{"fn_index": 99999, "session_hash": "me", "data": []}', 404),
        ('{"fn_index": "0", "session_hash": "me", "data": []}', 404),
        ('{"fn_index": [0], "session_hash": "me", "data": []}', 404),
        ('{"api_name": "on_move", "session_hash": "me", "data": []}', 404),
    ],
)
def test_a_request_makes_sense(address, body, status):
    answer = httpx.post(address + QUEUE, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert len(answer.text) < 200


def test_uploads_end_where_the_room_does(monkeypatch):
    """Refused by what is said, or while they come if nothing is said; room that is kept for one is given back."""
    received = Received(visitor_bytes=1000, total_bytes=10**9)
    arrived = []

    async def app(_scope, receive, send):
        more = True
        while more:
            message = await receive()
            arrived.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"[]"})

    door = Gate(app, SimpleNamespace(fns={}), SimpleNamespace(received=received), Rules())
    assert _ask(door, "POST", UPLOAD, {"content-length": "2000"}, [b"x" * 2000])[0] == 413
    assert arrived == []
    assert _ask(door, "POST", UPLOAD, {}, [b"x" * 600] * 3)[0] == 413
    assert len(arrived) == 1
    assert _ask(door, "POST", UPLOAD, {"content-length": "900"}, [b"x" * 900])[0] == 200
    assert received.room("client") == 1000


def _ask(door: Gate, method: str, path: str, headers: dict[str, str], parts: list[bytes] | None = None) -> tuple:
    """Status and headers of what a gate answers."""
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts or [b""]]
    left[-1]["more_body"] = False
    said = []

    async def receive():
        return left.pop(0)

    async def send(message):
        said.append(message)

    headers = {"host": "localhost", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("client", 1),
    }
    asyncio.run(door(scope, receive, send))
    return said[0]["status"], {name.decode(): value.decode() for name, value in said[0]["headers"]}


# --- places --------------------------------------------------------------------------------------------------------


@pytest.fixture
def door():
    async def app(_scope, _receive, send):
        headers = [(b"access-control-allow-origin", b"http://evil.example"), (b"server", b"uvicorn")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"the page"})

    def make(**environment: str) -> Gate:
        return Gate(app, SimpleNamespace(fns={}), SimpleNamespace(received=Received()), Rules.of(environment))

    return make


@pytest.mark.parametrize(
    ("environment", "host", "status"),
    [
        ({}, "127.0.0.1:7860", 200),
        ({}, "localhost:7860", 200),
        ({}, "[::1]:7860", 200),
        ({}, "192.168.1.20:7860", 200),
        ({}, "evil.example:7860", 403),
        ({}, "localhost.evil.example", 403),
        ({}, "127.0.0.1.evil.example", 403),
        ({}, "", 403),
        ({}, "[::1", 403),
        ({"GRA_ALLOWED_HOSTS": "faces.example, other.example"}, "Faces.example", 200),
        ({"GRA_ALLOWED_HOSTS": "faces.example"}, "evil.example", 403),
        ({"GRA_ALLOWED_HOSTS": "*"}, "evil.example", 200),
        ({"SPACE_ID": "me/faces", "SPACE_HOST": "me-faces.hf.space"}, "me-faces.hf.space", 200),
        ({"SPACE_ID": "me/faces", "SPACE_HOST": "me-faces.hf.space"}, "you-faces.hf.space", 403),
    ],
)
def test_a_foreign_name_that_leads_here_is_refused(door, environment, host, status):
    """Else a site whose name is pointed at 127.0.0.1 would be one with the page."""
    assert _ask(door(**environment), "GET", "/", {"host": host})[0] == status


@pytest.mark.parametrize(
    ("environment", "origin", "status"),
    [
        ({}, "http://localhost", 200),
        ({}, "http://evil.example", 403),
        ({}, "http://localhost:3000", 403),
        ({}, "http://203.0.113.9", 403),
        ({}, "null", 403),
        ({"GRA_ALLOWED_HOSTS": "faces.example"}, "https://faces.example", 200),
        ({"GRA_ALLOWED_HOSTS": "*"}, "https://evil.example", 403),
    ],
)
def test_other_sites_cannot_use_the_page(door, environment, origin, status):
    answered, headers = _ask(door(**environment), "POST", f"{PREFIX}/cancel", {"origin": origin}, [b"{}"])
    assert answered == status
    assert not any(name.startswith("access-control") for name in headers)


def test_a_request_from_another_site_without_an_origin_is_refused(door):
    assert _ask(door(), "POST", f"{PREFIX}/cancel", {"sec-fetch-site": "cross-site"}, [b"{}"])[0] == 403
    assert _ask(door(), "GET", "/", {"sec-fetch-site": "cross-site"})[0] == 200  # a link to the page


def test_every_answer_is_protected(door):
    for ask in (("GET", "/"), ("GET", "/nowhere"), ("DELETE", "/")):
        headers = _ask(door(), *ask, {})[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "same-origin"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    headers = _ask(door(SPACE_ID="me/faces", SPACE_HOST="localhost"), "GET", "/", {})[1]
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]
    assert "x-frame-options" not in headers


def test_the_address_of_a_client_comes_from_a_trusted_proxy_only(door):
    headers = {"x-forwarded-for": "10.0.0.1, 203.0.113.9"}
    scope = {"client": ("127.0.0.1", 1)}
    assert door().rules.address(scope, headers) == "127.0.0.1"
    assert door(GRA_BEHIND_PROXY="1").rules.address(scope, headers) == "203.0.113.9"
    assert door(SPACE_ID="a/b").rules.address(scope, {}) == "127.0.0.1"


# --- logs ----------------------------------------------------------------------------------------------------------


def test_no_request_and_no_file_name_is_logged(tmp_path, photo_file):
    """Requests that Gradio used to print whole, and errors whose message repeats what came in."""
    secret = "private-name-of-a-photo"
    process, address = start(tmp_path, [SERVER])
    try:
        files = {"files": (f"{secret}.png", photo_file.read_bytes(), "image/png")}
        told = httpx.post(address + UPLOAD, files=files).json()[0]
        functions = httpx.get(f"{address}/config").json()["dependencies"]
        for function in functions:
            for data in ([secret], [secret] * len(function["inputs"])):
                answer_of(address, function, data, event_data={"index": secret, "file": {"path": told}})
        httpx.post(f"{address}{PREFIX}/cancel", content=secret)
        httpx.get(f"{address}{FILE}/{secret}")
    finally:
        process.terminate()
        process.wait(timeout=30)
    log = (tmp_path / "log").read_text()
    assert secret not in log
    assert len(log) < 200_000


def test_an_error_is_described_without_its_message(caplog):
    private_logging.install()
    try:
        try:
            Path(secret := f"/nowhere/{time.time()}").read_bytes()
        except OSError as error:
            raise KeyError(secret) from error
    except KeyError:
        logging.getLogger("uvicorn.error").exception("It failed")
    assert "FileNotFoundError" in caplog.text
    assert "KeyError" in caplog.text
    assert "test_gate.py" in caplog.text
    assert "/nowhere/1" not in caplog.text


def test_a_line_that_repeats_itself_is_logged_seldom(caplog):
    seldom = private_logging.Seldom()
    lines = [logging.LogRecord("asyncio", logging.ERROR, "a.py", 1, "no %s", ("sockets",), None) for _ in range(100)]
    assert [seldom.filter(line) for line in lines].count(True) == 1
    lines[0].created += private_logging.AGAIN + 1
    assert seldom.filter(lines[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit of open files")
def test_a_server_without_descriptors_does_not_fill_its_log_and_recovers(tmp_path):
    limited = f"""
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
runpy.run_path({SERVER!r}, run_name="__main__")
"""
    process, address = start(tmp_path, ["-c", limited])
    try:
        host, port = address.removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(120)]
        time.sleep(3)
        for connection in idle:
            connection.close()
        wait_until(lambda: _works(address), 60)
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert (tmp_path / "log").read_text().count("\n") < 200


def _works(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_flood_while_the_server_starts_does_not_end_it(monkeypatch):
    """Gradio asked its own page while it started, and raised when it got no answer in time."""
    monkeypatch.setattr("gradio.networking.url_ok", lambda _url: False)
    with launched(free_port()) as address:
        assert httpx.get(address).status_code == 200


def test_how_many_pages_gradio_keeps_answers_for_is_ours_to_say(monkeypatch):
    """Its own bound of 2,000 dropped visitors who waited while thousands came later."""
    monkeypatch.setattr(page, "MOST_PAGES", 5)
    with launched(free_port()) as address, httpx.Client(base_url=address) as client:
        functions = client.get("/config").json()["dependencies"]
        (number,) = (function["id"] for function in functions if function["api_name"] == "edits")
        for visitor in range(6):
            event = {"fn_index": number, "session_hash": f"visitor{visitor}", "data": []}
            assert client.post(QUEUE, json=event).status_code == 200
        answer = client.get(f"{PREFIX}/queue/data", params={"session_hash": "visitor1"}, timeout=30).text
        assert '"success":true' in answer.replace(" ", "")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{PREFIX}/queue/data", params={"session_hash": "visitor0"}, timeout=30)
