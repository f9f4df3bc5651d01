"""Files that leave the editor, and settings that come back."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from gra_core import export, settings
from gra_core.directions.registry import load_directions
from gra_core.errors import SettingsError
from gra_core.export import FORMATS, SOURCE_TYPE, describe, result_name, save_picture, save_sweep, sweep_values


@pytest.fixture(scope="module")
def edits():
    return load_directions()


@pytest.mark.parametrize("suffix", list(FORMATS))
def test_pictures_say_that_they_are_edited(face, suffix):
    buffer = io.BytesIO()
    save_picture(face, buffer, suffix, "Smile +60 <&>")
    content = buffer.getvalue()
    assert SOURCE_TYPE.encode() in content
    assert b"Smile +60 &lt;&amp;&gt;" in content
    with Image.open(buffer) as saved:
        assert saved.format == FORMATS[suffix][0]
        assert saved.size == face.size
        if suffix == ".png":
            assert saved.text["Description"].endswith("Smile +60 <&>")
        assert not saved.getexif()


@pytest.mark.parametrize(("size", "background"), [((64, 64), "white"), ((1600, 900), "black")])
def test_the_visible_mark_is_visible_on_any_background(size, background):
    buffer = io.BytesIO()
    save_picture(Image.new("RGB", size, background), buffer, ".png", visible_mark=True)
    corner = Image.open(buffer).convert("L").crop((size[0] // 2, size[1] // 2, *size))
    darkest, brightest = corner.getextrema()
    assert brightest - darkest > 120


def test_settings_in_words_and_names(edits):
    assert describe({"smile": 60.0, "age": -30.0}, edits) == "Smile +60, Age -30"
    assert describe({}, edits) == "no edit"
    assert result_name("My photo (1)", {"smile": 60.0}, ".png") == "My photo (1)-smile+60.png"
    assert len(result_name("x" * 400, dict.fromkeys(edits, 55.0), ".webp")) <= 120


def test_a_video_is_offered_where_it_can_be_written(monkeypatch):
    assert export.animation_formats() == {"GIF": ".gif", "WebP": ".webp", "MP4": ".mp4"}
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _name: None)
    assert export.animation_formats() == {"GIF": ".gif", "WebP": ".webp"}


def test_a_video_goes_there_and_back_twice(face, tmp_path):
    frames = [face.resize((64, 64)).point(lambda level, v=value: level * v // 4) for value in (1, 2, 3)]
    save_sweep(frames, tmp_path / "sweep.mp4", "Smile <&>")
    content = (tmp_path / "sweep.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # it starts before it has been fetched whole
    assert SOURCE_TYPE.encode() in content
    with av.open(tmp_path / "sweep.mp4") as video:
        assert video.metadata["comment"].endswith("Smile <&>")
        (stream,) = video.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        brightness = [np.asarray(frame.to_image(), float).mean() for frame in video.decode(stream)]
    rest, step = 720 // 40, 120 // 40
    assert len(brightness) == 2 * (2 * rest + 2 * step) + 1
    assert brightness[0] < brightness[rest] < brightness[rest + step] > brightness[2 * rest + step] > brightness[-1] - 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_sweep_goes_there_and_back(face, edits, suffix, tmp_path):
    values = sweep_values(edits["smile"], 5)
    assert values == [-100, -50, 0, 50, 100]
    frames = [face.resize((64, 64)).point(lambda level, v=value: level * (200 + v) // 300) for value in values]
    save_sweep(frames, tmp_path / f"sweep{suffix}", "Smile")
    with Image.open(tmp_path / f"sweep{suffix}") as sweep:
        assert (sweep.n_frames, sweep.size) == (8, (64, 64))
        brightness = []
        for index in range(8):
            sweep.seek(index)
            brightness.append(sum(sweep.convert("L").resize((1, 1)).getpixel((0, 0)) for _ in range(1)))
    assert brightness[:5] == sorted(brightness[:5])
    assert brightness[4:] == sorted(brightness[4:], reverse=True)
    assert b"Edited by AI" in (tmp_path / f"sweep{suffix}").read_bytes()


def test_settings_survive_a_file_and_a_link(edits):
    strengths = {"smile": 60.0, "age": -30.0}
    assert settings.from_json(settings.to_json(strengths), edits) == (strengths, [])
    assert settings.from_query(settings.to_query(strengths), edits) == strengths


def test_settings_are_read_forgivingly(edits):
    values = {"smile": 900, "age": "-30", "yaw": None, "glasses": float("nan"), "gender": [], "wings": 5}
    strengths = {"smile": 100.0, "age": -30.0}
    assert settings.clean(edits, values) == strengths
    text = json.dumps({"format": settings.FORMAT, "edits": {"smile": 900, "wings": 5}})
    assert settings.from_json(text, edits) == ({"smile": 100.0}, ["wings"])
    assert settings.from_query("smile=1e999&age=x&__theme=dark&wings=3", edits) == {}
    assert settings.from_query("smile=25", edits) == {"smile": 25.0}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other", "edits": {}}', "[" * 5000, b"\xff\xfe", "null"])
def test_other_files_are_refused(edits, text):
    with pytest.raises(SettingsError, match="not a settings file"):
        settings.from_json(text, edits)
