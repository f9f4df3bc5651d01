"""Finding, checking and downloading weights; the Hub is a small server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gra_core import checkpoints
from gra_core.checkpoints import CheckpointSource
from gra_core.constants import CHECKPOINT_DIR
from gra_core.directions.registry import load_directions
from gra_core.errors import CheckpointError
from gra_core.lab.training.runtime import save_weights
from gra_core.models.streams import DESIGNS, Streams

NAME = "layer.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    save_file({"weight": torch.ones(2, 3).half(), "bias": torch.zeros(2).half()}, tmp_path / NAME)
    return tmp_path


def test_half_precision_file_becomes_a_frozen_float32_module(folder):
    layer = CheckpointSource(folder).load(NAME, torch.nn.Linear(3, 2))
    assert layer.weight.dtype == torch.float32
    assert not layer.training
    assert not layer.weight.requires_grad
    assert layer.weight.eq(1).all()


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing.*GRA_HUB_REPO"):
        CheckpointSource(tmp_path).path("encoder.safetensors")


@pytest.mark.parametrize("source", [Path("owner/name"), "/missing", "./missing", "missing", "a/b/c"])
def test_missing_folder_is_not_taken_for_a_repository(source):
    with pytest.raises(CheckpointError, match="no folder"):
        CheckpointSource(source)


def test_damaged_file_is_refused_by_checksum(folder):
    (folder / "manifest.json").write_text(json.dumps({NAME: "0" * 64}))
    with pytest.raises(CheckpointError, match="damaged"):
        CheckpointSource(folder).path(NAME)


def test_a_new_file_is_entered_into_the_manifest_beside_it(folder):
    checkpoints.record_checksum(folder / NAME)
    assert not (folder / "manifest.json").exists()
    (folder / "manifest.json").write_text(json.dumps({NAME: "0" * 64, "other": "1" * 64}))
    checkpoints.record_checksum(folder / NAME)
    assert CheckpointSource(folder).path(NAME) == folder / NAME
    assert json.loads((folder / "manifest.json").read_text())["other"] == "1" * 64


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_file_that_holds_no_weights_is_refused(folder, content):
    (folder / NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        CheckpointSource(folder).load(NAME, torch.nn.Linear(3, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"layer.safetensors": 5}', b"[" * 100_000])
def test_a_broken_manifest_is_said(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^manifest\.json is damaged"):
        CheckpointSource(folder).path(NAME)


def test_errors_show_no_path_of_the_server(folder):
    source = CheckpointSource(folder)
    (folder / "directions.safetensors").write_bytes(b"damaged")
    (folder / "none").symlink_to(folder / "absent")
    tries = [
        lambda: source.load(NAME, torch.nn.Linear(5, 2)),
        lambda: source.path("absent.safetensors"),
        lambda: source.load_streams("directions.safetensors"),
        lambda: load_directions(folder / "directions.safetensors"),
        lambda: load_directions(folder / "absent.safetensors"),
        lambda: load_directions(folder / "none"),
    ]
    (folder / "manifest.json").write_text(json.dumps({NAME: "0" * 64}))
    tries.append(lambda: CheckpointSource(folder).path(NAME))
    for attempt in tries:
        with pytest.raises(CheckpointError) as caught:
            attempt()
        assert str(folder) not in str(caught.value)
        assert str(folder.parent) not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_of_another_net_are_refused(folder):
    with pytest.raises(CheckpointError, match="cannot be used"):
        CheckpointSource(folder).load(NAME, torch.nn.Linear(5, 2))


def test_streams_are_loaded_in_the_design_that_their_file_names(tmp_path):
    design = DESIGNS["one_shot"]
    save_weights(Streams(design), tmp_path / "x.safetensors", {"design": design.to_json()})
    assert CheckpointSource(tmp_path).load_streams("x.safetensors").design == design
    save_weights(Streams(design), tmp_path / "x.safetensors", {"design": "?"})
    with pytest.raises(CheckpointError, match="cannot be used"):
        CheckpointSource(tmp_path).load_streams("x.safetensors")


def test_the_manifest_names_every_shipped_file_and_fits():
    manifest = json.loads((CHECKPOINT_DIR / checkpoints.MANIFEST).read_text())
    shipped = {path.name: checkpoints.file_sha256(path) for path in CHECKPOINT_DIR.glob("*.safetensors")}
    assert manifest == shipped
    nets = (checkpoints.ENCODER, checkpoints.STREAMS, checkpoints.GENERATOR, checkpoints.PERSON)
    assert set(shipped) == {*nets, checkpoints.DIRECTIONS}


def test_shipped_weights_fit_the_size_budget():
    sizes = [path.stat().st_size for path in CHECKPOINT_DIR.glob("*.safetensors")]
    assert max(sizes) <= 60e6
    assert sum(sizes) <= 110e6


@pytest.mark.parametrize(("repository", "revision"), [("someone/weights", "main"), ("someone/weights@v2", "v2")])
def test_weights_come_from_the_hub_when_they_are_not_here(folder, tmp_path_factory, repository, revision):
    """The real Hub client, in a process of its own since it reads its settings on import."""
    content = (folder / NAME).read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, with_body: bool):
            found = self.path == f"/someone/weights/resolve/{revision}/{NAME}"
            self.send_response(200 if found else 404)
            body = content if found else b"{}"
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "from gra_core.checkpoints import CheckpointSource\n"
        "from gra_core.errors import CheckpointError\n"
        f"source = CheckpointSource('{repository}')\n"
        f"print(source.path('{NAME}').read_bytes().hex())\n"
        "try:\n"
        "    source.path('other.safetensors')\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(CHECKPOINT_DIR.parent),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    downloaded, message = done.stdout.splitlines()
    assert bytes.fromhex(downloaded) == content
    assert message.startswith("other.safetensors could not be downloaded from someone/weights")
