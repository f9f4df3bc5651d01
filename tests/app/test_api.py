"""The named endpoints."""

import weakref

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import StandIn, close_up, difference, drawn, files_in, free_port, launched, many_edits, wait_until

from gra_core.alignment import TURNED, FaceAligner
from gra_core.errors import GRAError
from gra_core.ui import api, app_state, received


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_edits(client):
    edits = client.predict(api_name="/edits")
    assert [edit["key"] for edit in edits] == list(many_edits())
    assert edits[0].keys() == {"key", "label", "hint", "minimum", "maximum", "group", "caveat"}


def test_align(client, photo_file, astronaut):
    path, about = client.predict(handle_file(photo_file), api_name="/align")
    aligned = FaceAligner().align_photo(astronaut)
    assert difference(Image.open(path), aligned.image) == 0
    assert about["faces"] == 1
    assert about["quad"] == pytest.approx(aligned.quad)


def test_edit(client, photo_file, astronaut):
    aligned = FaceAligner().align_photo(astronaut)
    expected = StandIn().edit(aligned.image, {"smile": 60})
    face = client.predict(handle_file(photo_file), {"smile": 60}, api_name="/edit")
    assert difference(Image.open(face), close_up(astronaut, aligned, expected)) == 0
    photo = client.predict(
        handle_file(photo_file), {"smile": 60}, whole_photo=True, file_format="webp", api_name="/edit"
    )
    assert Image.open(photo).format == "WEBP"
    assert difference(Image.open(photo).convert("RGB"), drawn(astronaut, (aligned, expected))) < 3


@pytest.mark.parametrize(
    ("settings", "face", "file_format", "said"),
    [
        ({"smile": 600}, 0, "png", "from -100 to 100"),
        ({"wings": 6}, 0, "png", "no edit named"),
        ({"smile": 60}, 3, "png", "1 face was found"),
        ({"smile": 60}, 0, "exe", "no format"),
        ({"smile": 60}, 0.0, "png", "whole number"),
        ({"smile": 60}, "0", "png", "whole number"),
        ({"smile": 60}, None, "png", "whole number"),
        ({"smile": 60}, True, "png", "whole number"),
        ({"smile": 60}, [0] * 1000, "png", "whole number"),
        (None, 0, "png", "strengths by key"),
        ([["smile", 60]], 0, "png", "strengths by key"),
        ("smile", 0, "png", "strengths by key"),
        ({f"edit{number}": 1 for number in range(10_000)}, 0, "png", "10000 settings"),
        ({"x" * 10_000: 1}, 0, "png", "no edit named"),
        ({"smile": [1] * 10_000}, 0, "png", "must be a number"),
        ({"smile": None}, 0, "png", "must be a number"),
        ({"smile": 60}, 0, None, "no format"),
    ],
)
def test_mistakes_are_explained(client, photo_file, settings, face, file_format, said):
    with pytest.raises(AppError, match=said) as caught:
        client.predict(handle_file(photo_file), settings, face, False, file_format, api_name="/edit")
    assert len(str(caught.value)) < 600


def test_what_was_done_to_a_photo_is_said(client, astronaut, tmp_path):
    astronaut.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png")
    path, about = client.predict(handle_file(tmp_path / "lying.png"), api_name="/align")
    assert about["notes"] == [TURNED[1]]
    assert difference(Image.open(path), FaceAligner().align_photo(astronaut).image) == 0
    job = client.submit(handle_file(tmp_path / "lying.png"), {"smile": 60}, api_name="/edit")
    job.result(timeout=60)
    updates = job.communicator.updates
    assert (TURNED[1], "info") in [getattr(updates.get_nowait(), "log", None) for _ in range(updates.qsize())]


def test_photos_and_results_are_deleted_after_a_while(photo_file, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(api, "KEPT_SECONDS", 2.0)
    monkeypatch.setattr(received, "FRESH", 2.0)
    monkeypatch.setattr(app_state, "HOUSEKEEPING_SECONDS", 0.5)
    with launched(free_port()) as address:
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        client.predict(handle_file(photo_file), api_name="/align")
        client.predict(handle_file(photo_file), {"smile": 60}, api_name="/edit")
        assert len(files_in(tmp_path)) >= 2
        wait_until(lambda: files_in(tmp_path) == [])


def test_only_the_named_endpoints_are_public(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/edits", "/align", "/edit"}


def test_an_error_lets_go_of_the_photo():
    """Gradio keeps errors for a while."""
    photos = []

    @api._told
    def endpoint() -> None:
        photo = Image.new("RGB", (8, 8))
        photos.append(weakref.ref(photo))
        raise GRAError("No face found.")

    with pytest.raises(gr.Error, match="No face found") as kept:
        endpoint()
    assert kept.value.__cause__ is not None
    assert photos[0]() is None
