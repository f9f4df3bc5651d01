"""Many photos at once."""

import io
import os
import signal
import subprocess
import sys
import time
import unicodedata
import zipfile
from pathlib import Path, PureWindowsPath

import hostile
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import StandIn, WholePhoto

from gra_core import batch, cli
from gra_core.alignment import FaceAligner
from gra_core.batch import REPORT, FolderSink, ZipSink, edit_batch, list_items
from gra_core.constants import PROJECT_ROOT
from gra_core.decoding import readable_formats
from gra_core.errors import GRAError, UnreadableImageError


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


WORDS = [
    "..",
    ".",
    "/",
    "//",
    "\\",
    "C:",
    "a",
    "CON",
    "NUL.txt",
    " ",
    "\0",
    "\n",
    ":",
    "ä",
    "\udcff",
    "a.png",
    "-",
    "*",
]
RESERVED = {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


def names_of_results(names: list[str]) -> list[str]:
    return batch._result_names([batch.Item(name, lambda: b"") for name in names], {"smile": 40.0}, ".png")


@settings(max_examples=400)
@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map("".join)), min_size=1, max_size=4))
@example(hostile.NAMES)
def test_names_of_results_are_harmless_everywhere(names):
    results = names_of_results(names)
    assert len({name.casefold() for name in results}) == len(names)
    for name in results:
        parts = name.split("/")
        assert all(parts)
        assert not PureWindowsPath(name).anchor
        assert len(parts) <= 9
        for part in parts:
            assert part not in (".", "..")
            assert all(letter.isprintable() or letter in "\u200c\u200d" for letter in part)
            assert not set(part) & set('<>:"\\|?*')
            assert not part.endswith((".", " "))
            assert not part.startswith(" ")
            assert part.split(".")[0].upper() not in RESERVED
            assert len(part.encode()) <= 240
        folders = {"/".join(parts[:end]).casefold() for end in range(1, len(parts))}
        assert not folders & {other.casefold() for other in [*results, REPORT]}


@pytest.mark.parametrize(
    "name", ["Amélie", "क्षितिज", "ภาพถ่าย", "👩🏽\u200d🚀 ☀️", "क्\u200dष", "名前", "a (1) & b's, #2"]
)
def test_names_keep_letters_of_all_scripts_and_emoji(name):
    decomposed = unicodedata.normalize("NFD", name)
    assert names_of_results([f"{name}/{decomposed}.jpg"]) == [f"{name}/{decomposed}-smile+40.png"]


def test_hostile_names_stay_in_the_folder_and_in_the_zip(photo_file, tmp_path):
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
        for name in hostile.NAMES:
            if name.endswith(".png") and not any("\ud800" <= letter <= "\udfff" for letter in name):
                archive.writestr(zipfile.ZipInfo(name), photo_file.read_bytes())
    place = tmp_path / "place"
    items = [*list_items([tmp_path / "hostile.zip"]), *(batch.Item(name, lambda: photo_file) for name in hostile.NAMES)]
    with FolderSink(place / "out") as sink:
        outcomes = run_quickly(items, sink)
    with ZipSink(place / "out.zip") as sink:
        run_quickly(items, sink)
    written = [path for path in place.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(place / "out") or path == place / "out.zip" for path in written)
    assert len(written) == len(items) + 1
    assert not [outcome for outcome in outcomes if outcome.error]
    with zipfile.ZipFile(place / "out.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            str(path.relative_to(place / "out")) for path in written if path != place / "out.zip"
        )


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "C:\\a.png", "x/../../a.png", "link/a.png"])
def test_results_are_refused_elsewhere(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    folder = FolderSink(tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    if name == "C:\\a.png":  # a plain name on this system
        name = "../C:\\a.png"
    with pytest.raises(GRAError, match="outside"):
        folder.write(name, b"content")
    assert not list((tmp_path / "elsewhere").iterdir())
    if not name.startswith("link"):
        with ZipSink(tmp_path / "out.zip") as sink:
            sink.start("", {})
            with pytest.raises(GRAError, match="outside"):
                sink.write(name, b"content")


def run_quickly(items, sink, **options) -> list[batch.Outcome]:
    options = {"whole_photo": True} | options
    return list(edit_batch(StandIn(), WholePhoto(), items, {"smile": 40.0}, sink, **options))


@pytest.mark.parametrize(("name", "content"), [pair for pair in hostile.zips() if len(pair[1]) < 10_000])
def test_hostile_zips_end_in_a_sentence(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    try:
        outcomes = run_quickly(list_items([tmp_path / name]), FolderSink(tmp_path / "out"), unexpected=pytest.fail)
    except UnreadableImageError as error:
        assert name in str(error) or "no photos" in str(error)
    else:
        assert all(outcome.error is None or outcome.error.endswith(".") for outcome in outcomes)


def test_a_zip_of_very_many_photos_is_refused_quickly(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(30_000):
            archive.writestr(f"{number}.png", b"")
    with pytest.raises(UnreadableImageError, match="30000 photos"):
        list_items([tmp_path / "many.zip"])


def test_names_that_are_no_text_can_be_reported(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\nx.png")).write_bytes(b"no picture")
    except OSError:
        pytest.skip("the file system takes only text")
    with ZipSink(tmp_path / "out.zip") as sink:
        (outcome,) = run_quickly(list_items([folder]), sink)
    assert outcome.error
    with zipfile.ZipFile(tmp_path / "out.zip") as results:
        (line,) = results.read(REPORT).decode().splitlines()
    assert line.startswith("\\udcff x.png: ")


def test_a_name_that_is_not_the_utf8_it_says_loses_no_zip(photo_file, tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("früh.png", photo_file.read_bytes())
        archive.writestr("plain.png", photo_file.read_bytes())
    content = (tmp_path / "in.zip").read_bytes()
    assert content.count("früh".encode()) == 2
    (tmp_path / "in.zip").write_bytes(content.replace("früh".encode(), b"fr\xfc\xfch"))
    items = list_items([tmp_path / "in.zip"])
    assert len(items) == 2
    assert not [outcome for outcome in run_quickly(items, FolderSink(tmp_path / "out")) if outcome.error]


def test_folders_whose_names_are_no_text(photo_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_editor", lambda _args: StandIn())
    monkeypatch.setattr("gra_core.alignment.FaceAligner", WholePhoto)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    try:
        (folder / "in" / folder.name).mkdir(parents=True)
    except OSError:
        pytest.skip("the file system takes only text")
    (folder / "in" / folder.name / "a.png").write_bytes(photo_file.read_bytes())
    for out in (folder / "out", folder / "out.zip"):
        assert cli.main(["batch", str(folder / "in"), "-o", str(out)]) == 0
        assert "Wrote 1 of 1 photos" in capsys.readouterr().out
    (result,) = (folder / "out").rglob("*.png")
    assert result.relative_to(folder / "out").as_posix() == "--/a-unedited.png"


def test_what_is_no_photo_is_listed(small_photos, tmp_path):
    (small_photos / "f0" / "broken.png").unlink()
    (small_photos / "f0" / "notes.txt").write_text("no photo")
    (small_photos / ".hidden.txt").write_text("nor this")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in small_photos.rglob("*.*"):
            archive.write(file, file.relative_to(small_photos))
    for source in (small_photos, tmp_path / "in.zip"):
        items = list_items([source])
        assert items.left_out == ["f0/notes.txt"]
        with ZipSink(tmp_path / "out.zip") as sink:
            assert not [outcome for outcome in run_quickly(items, sink) if outcome.error]
        assert content_of(tmp_path / "out.zip")[REPORT].decode().startswith("f0/notes.txt: It is left out")


def test_the_report_is_of_this_batch_and_can_always_be_written(small_photos, tmp_path):
    out = tmp_path / "out"
    with FolderSink(out) as sink:
        run_quickly(list_items([small_photos]), sink)
    assert "broken.png" in (out / REPORT).read_text()
    (small_photos / "f0" / "broken.png").unlink()
    with FolderSink(out) as sink:
        run_quickly(list_items([small_photos]), sink)
    assert not (out / REPORT).exists()
    (out / REPORT).mkdir()
    (small_photos / "broken.png").write_text("no picture")
    with FolderSink(out) as sink:
        assert len(run_quickly(list_items([small_photos]), sink)) == 13
    assert "broken.png" in (out / "not-edited-2.txt").read_text()


def test_a_full_disk_takes_nothing_that_is_done(tmp_path, monkeypatch):
    content = b"picture" * 1000
    with ZipSink(tmp_path / "out.zip") as sink:
        sink.start("settings", {})
        sink.write("a.png", content)
        with monkeypatch.context() as patch:

            def fail(self, data):
                self._fileobj.write(bytes(data)[:100])
                raise OSError(28, "No space left on device")

            patch.setattr(zipfile._ZipWriteFile, "write", fail)
            with pytest.raises(OSError, match="No space"):
                sink.write("b.png", content)
        sink.write("c.png", content)
    assert content_of(tmp_path / "out.zip") == {"a.png": content, "c.png": content}


def test_notes_on_photos_are_listed(tmp_path, photo_file):
    content = photo_file.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: int(len(content) * 0.95)])
    with FolderSink(tmp_path / "out") as sink:
        (outcome,) = run_quickly(list_items([tmp_path / "cut.png"]), sink)
    assert "part of the file is missing" in outcome.notes[0]
    assert (tmp_path / "out" / batch.NOTES).read_text() == f"cut.png: {outcome.notes[0]}\n"


def test_a_format_that_cannot_hold_the_photo_is_refused_at_once(tmp_path):
    Image.new("RGB", (16_400, 20)).save(tmp_path / "wide.png")
    editor = StandIn()
    options = {"whole_photo": True, "suffix": ".webp"}
    items = list_items([tmp_path / "wide.png"])
    (outcome,) = edit_batch(editor, WholePhoto(), items, {}, FolderSink(tmp_path / "out"), **options)
    assert "at most 16383 pixels a side" in outcome.error
    assert editor.inverted == 0


def test_all_that_the_loader_reads_is_a_photo():
    known = readable_formats()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in (*known, "MPO", "DIB")}
    assert suffixes == batch.SUFFIXES


# --- interrupted batches ---------------------------------------------------------------------------------------------


def content_of(place: Path) -> dict[str, bytes]:
    """What a finished batch left, by name; hidden files included."""
    if place.suffix == ".zip":
        assert not list(place.parent.glob(f".{place.name}*"))
        with zipfile.ZipFile(place) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def small_photos(tmp_path) -> Path:
    folder = tmp_path / "small"
    for number in range(12):
        path = folder / f"f{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number * 20, 0, 0)).save(path)
    (folder / "f0" / "broken.png").write_text("no picture")
    return folder


def sink_of(place: Path):
    return (ZipSink if place.suffix == ".zip" else FolderSink)(place)


class Stop(Exception):
    """Ends a batch in its middle."""


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_a_batch_goes_on_where_it_was_interrupted(small_photos, tmp_path, out):
    items, edited = list_items([small_photos]), []
    with sink_of(tmp_path / f"whole-{out}") as sink:
        run_quickly(items, sink)
    wanted = content_of(tmp_path / f"whole-{out}")
    assert len(wanted) == 13

    class Counting(WholePhoto):
        def find(self, photo):
            edited.append(photo.image.getpixel((0, 0)))
            return super().find(photo)

    for count in (4, 8, 12):
        with pytest.raises(Stop), sink_of(tmp_path / out) as sink:
            for _ in edit_batch(StandIn(), Counting(), items, {"smile": 40.0}, sink, whole_photo=True):
                if len(edited) == count:
                    raise Stop
        assert not (tmp_path / "out.zip").exists()
    assert len(set(edited)) == len(edited) == 12
    with sink_of(tmp_path / out) as sink:
        list(edit_batch(StandIn(), Counting(), items, {"smile": 40.0}, sink, whole_photo=True))
    assert len(edited) == 12
    assert content_of(tmp_path / out) == wanted
    with sink_of(tmp_path / out) as sink:  # once more, now that it is complete
        run_quickly(items, sink)
    assert content_of(tmp_path / out) == wanted


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_other_settings_or_changed_photos_are_edited_anew(small_photos, tmp_path, out):
    items = list_items([small_photos])
    with pytest.raises(Stop), sink_of(tmp_path / out) as sink:
        run_quickly(items, sink)
        raise Stop
    (small_photos / "f0" / "0.png").unlink()
    Image.new("RGB", (64, 64), "white").save(small_photos / "f0" / "0.png")
    items = list_items([small_photos])
    with sink_of(tmp_path / out) as sink:
        run_quickly(items, sink)
    with Image.open(io.BytesIO(content_of(tmp_path / out)["f0/0-smile+40.png"])) as result:
        assert result.getpixel((5, 5)) == (255, 255, 255)
    with pytest.raises(Stop), sink_of(tmp_path / out) as sink:
        run_quickly(items, sink)
        raise Stop
    with sink_of(tmp_path / out) as sink:
        run_quickly(items, sink, suffix=".jpg")
    names = [name for name in content_of(tmp_path / out) if name.endswith(".jpg")]
    assert len(names) == 12


HERE = Path(__file__).parent
KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from serving import StandIn, WholePhoto
from test_batch import sink_of
from gra_core.batch import edit_batch, list_items
class Slow(WholePhoto):
    def align(self, photo, face):
        time.sleep(0.03)
        return super().align(photo, face)
with sink_of(Path(sys.argv[2])) as sink:
    for outcome in edit_batch(StandIn(), Slow(), list_items([Path(sys.argv[1])]), {"smile": 40.0}, sink, whole_photo=True):
        print(outcome.done, flush=True)
"""  # noqa: E501


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_a_killed_batch_leaves_whole_files_and_goes_on(small_photos, tmp_path, out):
    with sink_of(tmp_path / f"whole-{out}") as sink:
        run_quickly(list_items([small_photos]), sink)
    wanted = content_of(tmp_path / f"whole-{out}")
    arguments = [sys.executable, "-c", KILLED, small_photos, tmp_path / out, HERE, HERE.parent]
    process = subprocess.Popen(arguments, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "5\n":
            time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out.zip").exists()
    for path in (tmp_path / "out").rglob("[!.]*.png"):
        assert path.read_bytes() == wanted[str(path.relative_to(tmp_path / "out"))]
    with (tmp_path / f".{out}.gra-part").open("ab") if out == "out.zip" else open(os.devnull, "wb") as part:
        part.write(b"PK\x03\x04 and then it was killed")
    done = subprocess.run(arguments, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.endswith("13\n")
    assert content_of(tmp_path / out) == wanted


def test_leftovers_are_swept(small_photos, tmp_path):
    (tmp_path / "out" / "f0").mkdir(parents=True)
    (tmp_path / "out" / "f0" / ".x.png.gra-part").write_bytes(b"half a picture")
    with FolderSink(tmp_path / "out") as sink:
        run_quickly(list_items([small_photos]), sink)
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_two_batches_do_not_write_to_one_place(small_photos, tmp_path):
    with ZipSink(tmp_path / "out.zip") as sink, ZipSink(tmp_path / "out.zip") as other:
        sink.start("settings", {})
        with pytest.raises(GRAError, match="Another batch"):
            other.start("settings", {})
        sink.write("a.txt", b"text")
    assert content_of(tmp_path / "out.zip") == {"a.txt": b"text"}


def test_after_an_error_what_is_done_waits_for_the_next_time(tmp_path):
    with pytest.raises(OSError, match="full"), ZipSink(tmp_path / "out.zip") as sink:
        sink.start("settings", {})
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []  # nothing was done
    with pytest.raises(OSError, match="full"), ZipSink(tmp_path / "out.zip") as sink:
        sink.start("settings", {})
        sink.write("a.txt", b"text", "a")
        raise OSError("disk full")
    assert not (tmp_path / "out.zip").exists()
    with ZipSink(tmp_path / "out.zip") as sink:
        assert sink.start("settings", {"a.txt": "a"}) == {"a.txt"}
    assert content_of(tmp_path / "out.zip") == {"a.txt": b"text"}


def test_results_do_not_fall_among_the_photos(folder, archive, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_editor", lambda _args: StandIn())
    before = archive.read_bytes()
    for source, out in ((folder, folder), (folder, folder / "trip" / "out"), (archive, archive)):
        assert cli.main(["batch", str(source), "-o", str(out)]) == 2
        assert "somewhere else" in capsys.readouterr().err
    assert archive.read_bytes() == before
    assert not (folder / "trip" / "out").exists()


def test_nothing_to_do_is_said(tmp_path):
    (tmp_path / "fake.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    for source, said in (
        ("fake.zip", "not a zip"),
        ("empty", "no photos"),
        ("absent", "does not exist"),
        ("absent.zip", "does not exist"),
    ):
        with pytest.raises(UnreadableImageError, match=said):
            list_items([tmp_path / source])


def test_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_editor", lambda _args: StandIn())
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
