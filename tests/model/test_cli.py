"""The command line: every mistake is one line and exit code 2, every success a whole file."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from serving import StandIn

from gra_core import cli
from gra_core.alignment import TURNED, FaceAligner
from gra_core.constants import CHECKPOINT_DIR, PROJECT_ROOT
from gra_core.directions.registry import load_directions
from gra_core.editor import PortraitEditor


def run(*arguments: object) -> int:
    """Exit code of a command run in this process."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's own way out
        return stop.code


def start(*arguments: object, **options: object) -> subprocess.Popen:
    """The real thing, as a user starts it."""
    command = [sys.executable, "-m", "gra_core", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def one_line(capsys: pytest.CaptureFixture) -> str:
    """The error line; fails when there is more than that."""
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("gra_core: error: ")
    assert streams.err.count("\n") == 1
    return streams.err.removeprefix("gra_core: error: ")


def difference(one: Image.Image | Path, other: Image.Image | Path, box: tuple[int, int, int, int]) -> float:
    """Mean absolute difference of two pictures inside a box, in levels of 255."""
    pictures = [Image.open(picture) if isinstance(picture, Path) else picture for picture in (one, other)]
    first, second = (np.asarray(picture.convert("RGB").crop(box), dtype=float) for picture in pictures)
    return float(np.abs(first - second).mean())


FACE_BOX = (300, 300, 724, 800)  # eyes to chin in an aligned face of 1024 px


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "smille=50"], ["smille", "Did you mean smile", "glasses"]),
        (["--set", "smile=101"], ["smile", "-100", "100", "101"]),
        (["--set", "smile=-101"], ["smile", "-100"]),
        (["--set", "smile=nan"], ["smile", "nan"]),
        (["--set", "smile=inf"], ["smile", "inf"]),
        (["--set", "smile=much"], ["smile", "much"]),
        (["--set", "smile="], ["smile"]),
        (["--set", "smile"], ["NAME=VALUE", "smile=60"]),
        (["--set", "=5"], ["NAME=VALUE"]),
        (["--set", "smile=1", "--set", "smile=2"], ["smile", "twice"]),
        (["--face", "0"], ["--face", "1 or more"]),
        (["--face", "two"], ["--face", "two"]),
        (["--face", "2"], ["face 2", "1 face was found"]),
        (["--aligned", "--paste-back"], ["--aligned", "--paste-back"]),
        (["--checkpoints", "/no/where"], ["/no/where", "no folder"]),
        (["--device", "abacus"], ["abacus", "--device cpu"]),
    ],
)
def test_wrong_options_are_one_line(photo_file, tmp_path, capsys, options, words):
    assert run("edit", photo_file, "-o", tmp_path / "out.png", *options) == 2
    line = one_line(capsys)
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("text.jpg", "not a picture"),
        ("empty.jpg", "empty"),
        ("bomb.png", "too large"),
        ("nobody.png", "No face"),
        ("absent.png", "does not exist"),
    ],
)
def test_wrong_photos_are_one_line(bad_files, tmp_path, capsys, name, word):
    (tmp_path / "out.png").write_text("an older result")
    assert run("edit", bad_files.get(name, name), "--set", "smile=10", "-o", tmp_path / "out.png") == 2
    assert word in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_text() == "an older result"


@pytest.mark.parametrize("output", ["out.gif", "out", "absent/out.png", "folder.png", "file/out.png"])
def test_wrong_outputs_are_one_line(photo_file, tmp_path, capsys, output):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    assert run("edit", photo_file, "-o", tmp_path / output) == 2
    assert output.partition("/")[0] in one_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_damaged_checkpoint_is_one_line(photo_file, tmp_path, capsys):
    for part in CHECKPOINT_DIR.glob("*.safetensors"):
        folder = tmp_path / part.stem
        shutil.copytree(CHECKPOINT_DIR, folder)
        whole = part.read_bytes()
        (folder / part.name).write_bytes(whole[: len(whole) // 2])
        assert run("edit", photo_file, "-o", tmp_path / "out.png", "--checkpoints", folder) == 2
        assert part.name in one_line(capsys)
        (folder / part.name).unlink()
        assert run("edit", photo_file, "-o", tmp_path / "out.png", "--checkpoints", folder) == 2
        assert part.name in one_line(capsys)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["edit"], ["edit", "--help"], ["--version"], ["edit", "x.png", "-o", "x.bmp"]]
)
def test_light_commands_do_not_load_pytorch(arguments):
    program = (
        "import sys\nfrom gra_core import cli\n"
        f"try:\n    code = cli.main({arguments!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "assert 'torch' not in sys.modules and 'gradio' not in sys.modules\nprint('code', code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    expected = 0 if arguments in (["edit", "--help"], ["--version"]) else 2
    assert done.stdout.endswith(f"code {expected}\n")


def test_a_wrong_name_does_not_load_pytorch(photo_file, tmp_path):
    program = (
        "import sys\nfrom gra_core import cli\n"
        f"code = cli.main(['edit', {str(photo_file)!r}, '--set', 'smil=1', '-o', {str(tmp_path / 'o.png')!r}])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "smil" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_runs_and_exits_with_the_code():
    process = start("edit", "absent.png", "-o", "absent.gif")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("gra_core: error: ")


@pytest.fixture
def loaded(editor, monkeypatch):
    """Commands find the weights in memory."""
    monkeypatch.setattr(PortraitEditor, "from_pretrained", lambda *_arguments, **_options: editor)


@pytest.fixture(scope="module")
def edited(photo_file, editor, tmp_path_factory) -> dict[str, Path]:
    """One photo through the command in several ways; the first time with weights from the files."""
    folder = tmp_path_factory.mktemp("edited")
    ways = {
        "plain.png": [],
        "zero.png": ["--set", "smile=0", "--set", "age=0"],
        "older.png": ["--set", "age=80"],
        "photo.png": ["--set", "age=80", "--paste-back"],
        "older.jpg": ["--set", "age=80"],
        "older.webp": ["--set", "age=80"],
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, options in ways.items():
            assert run("edit", photo_file, "-o", folder / name, "--device", "cpu", *options) == 0
            patch.setattr(PortraitEditor, "from_pretrained", lambda *_arguments, **_options: editor)
    assert sorted(path.name for path in folder.iterdir()) == sorted(ways)
    return {name: folder / name for name in ways}


def test_an_edit_changes_the_face(edited):
    with Image.open(edited["older.png"]) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (1024, 1024))
    assert difference(edited["plain.png"], edited["older.png"], FACE_BOX) > 3


def test_strength_zero_changes_nothing(edited):
    assert difference(edited["plain.png"], edited["zero.png"], (0, 0, 1024, 1024)) == 0


def test_the_reconstruction_is_the_photo(edited, astronaut):
    face = FaceAligner().align_photo(astronaut).image
    assert difference(edited["plain.png"], face, (0, 0, 1024, 1024)) < 12


@pytest.mark.parametrize(("name", "kind"), [("older.jpg", "JPEG"), ("older.webp", "WEBP")])
def test_the_suffix_chooses_the_format(edited, name, kind):
    with Image.open(edited[name]) as picture:
        assert (picture.format, picture.size) == (kind, (1024, 1024))
    assert difference(edited[name], edited["older.png"], (0, 0, 1024, 1024)) < 3


def test_paste_back_keeps_the_photo_around_the_face(edited, astronaut):
    result = np.asarray(Image.open(edited["photo.png"]))
    photo = np.asarray(astronaut)
    assert result.shape == photo.shape
    quad = FaceAligner().align_photo(astronaut).quad
    quad = quad + (quad - quad.mean(axis=0)) * 0.7  # what moves at the crop's edge moves a third of its side beyond
    (left, top), (right, bottom) = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    outside = np.ones(photo.shape[:2], dtype=bool)
    outside[max(top, 0) : bottom, max(left, 0) : right] = False
    assert outside.mean() > 0.4
    assert (result[outside] == photo[outside]).all()
    assert (result[~outside] != photo[~outside]).any()


@pytest.mark.usefixtures("loaded")
def test_aligned_crops_are_taken_as_they_are(astronaut, tmp_path, edited):
    FaceAligner().align_photo(astronaut).image.save(tmp_path / "face.png")
    assert run("edit", tmp_path / "face.png", "--aligned", "-o", tmp_path / "out.png") == 0
    assert difference(tmp_path / "out.png", edited["plain.png"], (0, 0, 1024, 1024)) == 0


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(("options", "kind"), [([], "PNG"), (["--format", "jpg"], "JPEG")])
def test_pictures_come_and_go_through_pipes(photo_file, monkeypatch, edited, options, kind):
    pipe, out = io.BytesIO(photo_file.read_bytes()), io.BytesIO()
    pipe.seekable = lambda: False
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    assert run("edit", "-", "--set", "age=80", "-o", "-", *options) == 0
    assert Image.open(out).format == kind
    assert difference(Image.open(out), edited["older.png"], (0, 0, 1024, 1024)) < 3


def test_a_terminal_gets_no_picture(photo_file, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("edit", photo_file, "-o", "-") == 2
    assert "terminal" in one_line(capsys)


def test_a_file_name_says_its_format(photo_file, tmp_path, capsys):
    assert run("edit", photo_file, "-o", tmp_path / "out.png", "--format", "jpg") == 2
    assert "-o -" in one_line(capsys)


def test_aligned_crops_are_square(pair_file, tmp_path, capsys):
    assert run("edit", pair_file, "--aligned", "-o", tmp_path / "out.png") == 2
    assert "1400 x 1000" in one_line(capsys)


@pytest.mark.usefixtures("loaded")
def test_face_chooses_among_several(pair_file, tmp_path):
    for face in (1, 2):
        code = run("edit", pair_file, "--face", face, "--set", "age=80", "--paste-back", "-o", tmp_path / f"{face}.png")
        assert code == 0
    left, right = (100, 60, 900, 560), (950, 300, 1370, 720)
    assert difference(pair_file, tmp_path / "1.png", left) > 0
    assert difference(pair_file, tmp_path / "1.png", right) == 0
    assert difference(pair_file, tmp_path / "2.png", (20, 60, 700, 960)) == 0
    assert difference(pair_file, tmp_path / "2.png", right) > 0


def test_what_was_done_to_a_photo_is_said_and_its_transparency_kept(astronaut, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_editor", lambda _args: StandIn())
    photo = astronaut.copy()
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png")
    assert run("edit", tmp_path / "lying.png", "--paste-back", "-o", tmp_path / "out.png") == 0
    assert f"note: {TURNED[1]}" in capsys.readouterr().err
    with Image.open(tmp_path / "out.png") as result:
        assert result.getchannel("A").tobytes() == photo.getchannel("A").tobytes()


def test_a_format_that_cannot_hold_the_photo_is_refused_at_once(tmp_path, capsys):
    Image.new("RGB", (16_400, 20)).save(tmp_path / "wide.png")
    assert run("edit", tmp_path / "wide.png", "--paste-back", "-o", tmp_path / "out.webp") == 2
    assert "at most 16383 pixels a side" in one_line(capsys)
    assert not (tmp_path / "out.webp").exists()


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    class Full(Image.Image):
        def save(self, file, **_options):
            Path(file).write_bytes(b"half of a pic")
            raise OSError(28, "No space left on device")

    target = tmp_path / "out.png"
    target.write_text("an older result")
    with pytest.raises(OSError, match="No space"):
        cli.write_image(Full(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert target.read_text() == "an older result"


def test_results_keep_the_umask_and_follow_links(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    cli.write_image(Image.new("RGB", (4, 4)), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "real.png").stat().st_mode == plain.stat().st_mode


def test_directions_list_shows_every_edit(capsys):
    assert run("directions", "list") == 0
    rows = capsys.readouterr().out.splitlines()
    directions = load_directions()
    assert [row.split()[0] for row in rows[1:]] == list(directions)
    assert {"smile", "age", "yaw", "glasses", "gender"} <= set(directions)
    assert all(edit.label in row and edit.hint in row for edit, row in zip(directions.values(), rows[1:], strict=True))


def test_a_closed_pipe_is_no_error():
    process = start("directions", "list")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_an_interrupt_is_one_line(monkeypatch, photo_file, tmp_path, capsys):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_registry", interrupt)
    assert run("edit", photo_file, "-o", tmp_path / "out.png") == 130
    assert capsys.readouterr().err == "gra_core: interrupted\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("loaded")
def test_benchmark_reports_times_and_memory(tmp_path, capsys):
    assert run("benchmark", "--out", tmp_path / "bench.json", "--repeats", 1, "--device", "cpu") == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    shown = capsys.readouterr().out
    for step in ("StyleGAN2", "invert", "Editing Stream", "compose, 12 megapixels"):
        seconds = report["seconds"][step]
        assert 0 < seconds["5 %"] <= seconds["median"] <= seconds["95 %"]
        assert f"| {step} |" in shown
    assert report["seconds"]["StyleGAN2"]["ratio"] == 1
    stream = report["seconds"]["Editing Stream"]["median"]
    assert 0.2 * stream < sum(report["editing_stream_seconds"].values()) < 1.5 * stream
    assert 100 < report["peak_memory_mib"] < 100_000
    assert report["device"]
    assert report["repeats"] == 1


def test_evaluate_hands_its_options_over(tmp_path, monkeypatch):
    from gra_core.lab.evaluation import evaluate

    calls = []
    monkeypatch.setattr(evaluate, "run", lambda *arguments, **options: calls.append((arguments, options)))
    out = tmp_path / "report.json"
    assert run("evaluate", tmp_path, "--out", out, "--limit", 3, "--methods", "a", "b", "--device", "cpu") == 0
    ((arguments, options),) = calls
    assert arguments == (tmp_path, out)
    assert (options["limit"], options["methods"], options["device"]) == (3, ["a", "b"], "cpu")
    assert options["edits_exact"] == 0
    assert run("evaluate", tmp_path, "--out", out, "--edits-exact", 4) == 0
    assert calls[1][1]["edits_exact"] == 4


def test_evaluate_wants_a_folder(photo_file, tmp_path, capsys):
    assert run("evaluate", photo_file, "--out", tmp_path / "report.json") == 2
    assert "not a folder" in one_line(capsys)


@pytest.mark.parametrize(("action", "module"), cli.TRAIN_ACTIONS.items())
def test_train_hands_all_its_options_over(action, module, monkeypatch):
    import importlib

    calls = []
    trainer = importlib.import_module(f"gra_core.lab.training.{module}")
    monkeypatch.setattr(trainer, "main", calls.append)
    assert run("train", action, "--data", "faces", "--help") == 0
    assert calls == [["--data", "faces", "--help"]]


@pytest.mark.parametrize("action", ["fit", "check"])
def test_directions_hands_all_its_options_over(action, monkeypatch):
    from gra_core.lab.directions import fit

    calls = []
    monkeypatch.setattr(fit, "main", calls.append)
    assert run("directions", action, "--count", "5") == 0
    assert calls == [[action, "--count", "5"]]


@pytest.mark.parametrize(
    "command", [["train", "all"], ["directions", "fit"], ["evaluate", "photos"], ["benchmark"]], ids=" ".join
)
def test_a_package_of_the_lab_that_is_missing_is_named(monkeypatch, capsys, command):
    def absent(_name):
        raise ModuleNotFoundError(name="onnx")

    monkeypatch.setattr(cli, "import_module", absent)
    assert run(*command) == 2
    assert "needs the package onnx" in one_line(capsys)
