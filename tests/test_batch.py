"""Many photos at once."""

import zipfile
from pathlib import Path

import pytest
from PIL import Image
from serving import StandIn

from gra_core import batch, cli
from gra_core.alignment import FaceAligner
from gra_core.batch import REPORT, FolderSink, ZipSink, edit_batch, list_items
from gra_core.errors import UnreadableImageError


@pytest.fixture
def folder(photo_file, bad_files, tmp_path) -> Path:
    """Two good photos of the same name in two folders, two bad ones, and what is no photo."""
    place = tmp_path / "photos"
    for name in ("me.png", "trip/me.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(photo_file.read_bytes())
    (place / "broken.jpg").write_bytes(bad_files["text.jpg"].read_bytes())
    (place / "nobody.png").write_bytes(bad_files["nobody.png"].read_bytes())
    (place / "notes.txt").write_text("no photo")
    (place / ".hidden.png").write_bytes(photo_file.read_bytes())
    return place


@pytest.fixture
def archive(folder, tmp_path) -> Path:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as target:
        for file in sorted(folder.rglob("*")):
            target.write(file, file.relative_to(folder))
        target.writestr("__MACOSX/._me.png", "no photo either")
    return path


def run(items, sink, **options) -> list[batch.Outcome]:
    return list(edit_batch(StandIn(), FaceAligner(), items, {"smile": 40.0}, sink, **options))


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_one_bad_photo_never_stops_the_rest(source, tmp_path, request):
    items = list_items([request.getfixturevalue(source)])
    assert [item.name for item in items] == ["broken.jpg", "me.png", "nobody.png", "trip/me.png"]
    out = tmp_path / "out.zip"
    with ZipSink(out) as sink:
        outcomes = run(items, sink)
        assert not out.exists()  # it appears when it is complete
    assert [outcome.done for outcome in outcomes] == [1, 2, 3, 4]
    assert [outcome.error is None for outcome in outcomes] == [False, True, False, True]
    with zipfile.ZipFile(out) as results:
        assert sorted(results.namelist()) == ["me-smile+40.png", REPORT, "trip/me-smile+40.png"]
        report = results.read(REPORT).decode()
    assert "is not a picture" in report
    assert "nobody.png: No face found" in report


def test_faces_or_photos_in_a_chosen_format(photo_file, astronaut, tmp_path):
    run(list_items([photo_file]), FolderSink(tmp_path / "faces"), whole_photo=False, suffix=".webp")
    run(list_items([photo_file]), FolderSink(tmp_path / "photos"), suffix=".jpg")
    with Image.open(tmp_path / "faces" / "astronaut-smile+40.webp") as face:
        assert (face.format, face.size) == ("WEBP", (1024, 1024))
    with Image.open(tmp_path / "photos" / "astronaut-smile+40.jpg") as photo:
        assert (photo.format, photo.size) == ("JPEG", astronaut.size)


def test_results_never_collide_or_leave_the_folder(photo_file, tmp_path):
    items = [batch.Item(name, lambda: photo_file) for name in ("a.png", "a.jpg", "../../a.png", "C:\\x\\a.png")]
    run(items, FolderSink(tmp_path / "out"))
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert names == ["out/a-2-smile+40.png", "out/a-3-smile+40.png", "out/a-smile+40.png", "out/x/a-smile+40.png"]


def test_a_small_zip_of_a_huge_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_FILE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.png", bytes(10_000_000))
    (outcome,) = run(list_items([tmp_path / "bomb.zip"]), FolderSink(tmp_path / "out"))
    assert "too large" in outcome.error


def test_unexpected_errors_are_reported_and_passed_over(photo_file, tmp_path):
    def fail() -> Path:
        raise ZeroDivisionError("secret detail")

    told = []
    items = [batch.Item("a.png", fail), batch.Item("b.png", lambda: photo_file)]
    first, second = run(items, FolderSink(tmp_path / "out"), unexpected=told.append)
    assert (first.error, second.error) == (batch.UNEXPECTED, None)
    assert isinstance(told[0], ZeroDivisionError)


def test_a_failed_zip_leaves_nothing(photo_file, tmp_path):
    with pytest.raises(OSError, match="full"), ZipSink(tmp_path / "out.zip") as sink:
        sink.write("a.txt", b"text")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_do_is_said(tmp_path):
    (tmp_path / "fake.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    for source, said in (("fake.zip", "not a zip"), ("empty", "no photos"), ("absent", "does not exist")):
        with pytest.raises(UnreadableImageError, match=said):
            list_items([tmp_path / source])


def test_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_load_editor", lambda _args: StandIn())
    assert cli.main(["batch", str(folder), "--set", "smile=40", "-o", str(tmp_path / "out.zip")]) == 1
    output = capsys.readouterr()
    assert "2 of 4 photos" in output.out
    assert "[3/4] nobody.png: No face found" in output.err
    options = ["--paste-back", "--format", "jpg", "-o", str(tmp_path / "out")]
    assert cli.main(["batch", str(folder / "trip"), "--set", "smile=40", *options]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["me-smile+40.jpg"]
    assert cli.main(["batch", str(folder / "nobody.png"), "-o", str(tmp_path / "none")]) == 2
    assert cli.main(["batch", str(folder), "--set", "wings=4", "-o", str(tmp_path / "x.zip")]) == 2
    assert not (tmp_path / "x.zip").exists()
