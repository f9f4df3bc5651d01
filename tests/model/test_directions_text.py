"""Edits in words, with a tiny, randomly initialised CLIP of the real architecture that a local server offers as the Hub
would.
"""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from gra_core.constants import STYLE_DIM
from gra_core.directions import text
from gra_core.directions.stylespace import channel_rows, channel_spread, realised, to_w_plus
from gra_core.directions.text import TextDirections
from gra_core.errors import GRAError, MissingPackageError

transformers = pytest.importorskip("transformers")


@pytest.fixture
def clip(clip_folder, tmp_path):
    return TextDirections.from_pretrained(str(clip_folder), cache=tmp_path / "cache")


@pytest.fixture(scope="module")
def generator():
    from gra_core.lab.directions.sampling import load_generator

    return load_generator()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download of the files of one repository needs."""

    def __init__(self, folder, *args):
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        name = self.path.split("?")[0].rpartition("/")[2]
        file = self.folder / name
        known = "local/tiny-clip" in self.path
        if known and "/resolve/" in self.path and file.is_file():
            body, status = file.read_bytes(), 200
        elif known and self.path.startswith("/api/"):
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            body = json.dumps({"id": "local/tiny-clip", "sha": "0" * 40, "siblings": files}).encode()
            body, status = (b"[]", 200) if "/tree/" in self.path else (body, 200)
        else:
            body, status = b"", 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(clip_folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, clip_folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_clip_comes_from_the_hub(hub, tmp_path):
    code = (
        "from gra_core.directions.text import TextDirections\n"
        "clip = TextDirections.from_pretrained('local/tiny-clip')\n"
        "print(clip.embed_text('a face').shape)\n"
        "try: TextDirections.from_pretrained('local/none')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "no_proxy": "*"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=200
    )
    assert "torch.Size([24])" in run.stdout, run.stderr
    assert "MissingPackageError The CLIP model local/none could not be loaded" in run.stdout


def test_direction_raises_the_clip_score_of_fresh_faces(clip, generator):
    edit = clip.direction(generator, "a face", "a face with glasses", faces=2, reach=6.0, beta=0.1, label="Specs")
    assert (edit.key, edit.label, edit.kind) == ("text_specs", "Specs", "text")
    assert np.linalg.norm(edit.vector) == pytest.approx(6, rel=1e-4)
    difference = clip.text_difference("a face", "a face with glasses")
    z = torch.randn(3, STYLE_DIM, generator=torch.Generator().manual_seed(77))
    with torch.inference_mode():
        w = generator.mean_w + 0.7 * (generator.mapping(z) - generator.mean_w)
        codes = w[:, None].expand(-1, 16, -1)

        def score(sign):
            pictures = torch.cat([generator(code[None] + sign * torch.from_numpy(edit.vector)) for code in codes])
            return (clip.embed_pictures(pictures) @ difference).numpy()

        low, middle, high = score(-1), score(0), score(1)
    assert high.mean() > middle.mean() > low.mean()
    assert (high > low).mean() > 0.5


def test_threshold_leaves_channels_out(clip, generator, monkeypatch):
    relevance = np.zeros(len(channel_rows(generator)))
    relevance[[0, 600, -3]] = 1.0, 0.3, -0.5  # rows 0, 1 and 15
    monkeypatch.setattr(clip, "channel_relevance", lambda *_: relevance)
    rows = [
        np.flatnonzero(clip.direction(generator, "a face", "an old face", beta=beta).vector.any(1)).tolist()
        for beta in (0.2, 0.4, 0.9)
    ]
    assert rows == [[0, 1, 15], [0, 15], [0]]


def test_channel_statistics_are_kept_on_disk(clip, generator, monkeypatch):
    spread = clip._spread(generator)
    (file,) = clip.cache.glob("*.npy")
    assert len(spread) == len(channel_rows(generator))
    assert (spread > 0).all()
    monkeypatch.setattr(text, "channel_spread", None)
    np.testing.assert_array_equal(clip._spread(generator), spread)
    monkeypatch.undo()
    file.write_bytes(b"damaged")
    np.testing.assert_allclose(clip._spread(generator), spread, rtol=1e-4)


def test_single_channels_can_be_moved_in_w_plus(generator):
    """Where a row feeds no more than 512 channels, others of it hardly move."""
    z = torch.randn(1000, STYLE_DIM, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        spread = channel_spread(generator, generator.mapping(z))
    rows = channel_rows(generator)
    for row in (10, 12, 14, 15):
        channel = int(np.flatnonzero(rows == row)[5])
        wanted = np.zeros(len(rows), np.float32)
        wanted[channel] = 2 * spread[channel]
        offset = to_w_plus(generator, wanted, spread)
        assert np.flatnonzero(offset.any(1)).tolist() == [row]
        done = realised(generator, offset) / spread
        assert done[channel] == pytest.approx(2, rel=0.1)
        assert np.abs(np.delete(done, channel)).max() < 0.1


@pytest.mark.parametrize(
    ("neutral", "target", "options", "message"),
    [
        ("a face", "", {}, "characters"),
        ("a face", "x" * 500, {}, "characters"),
        ("a face", "a face", {}, "same"),
        ("a face", "an old face", {"beta": 1.5}, "beta"),
        ("a face", "an old face", {"faces": 0}, "face"),
    ],
)
def test_prompts_that_cannot_be_used(clip, neutral, target, options, message):
    with pytest.raises(GRAError, match=message):
        clip.direction(None, neutral, target, **options)


def test_switch_and_missing_package(monkeypatch):
    monkeypatch.setenv(text.SWITCH, "0")
    assert not text.is_available()
    with pytest.raises(GRAError, match="switched off"):
        TextDirections.from_pretrained()
    monkeypatch.delenv(text.SWITCH)
    assert text.is_available()
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    assert not text.is_available()
    with pytest.raises(MissingPackageError, match="pip install transformers"):
        TextDirections.from_pretrained()
