"""Directions that users bring: files of the field, bad files, StyleCLIP's mappers."""

import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from measuring import watched
from safetensors.numpy import save_file
from serving import STILL
from small_weights import mapper_checkpoint

from gra_core import cli
from gra_core.compositing import EditOutput
from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.directions import files
from gra_core.directions.importers import MAX_BYTES, UNIT_REACH, import_direction
from gra_core.directions.mappers import load_mapper, load_mappers
from gra_core.directions.registry import edit_offset
from gra_core.errors import DirectionFileError, GRAError
from gra_core.sandbox import Shared


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 10


def write(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".safetensors":
        save_file({"direction": np.ascontiguousarray(values)}, path)
    else:
        torch.save(torch.from_numpy(values), path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".pth", ".safetensors", ".NPY"])
@pytest.mark.parametrize("shape", [(512,), (1, 512), (16, 512)])
def test_formats_and_shapes(tmp_path, suffix, shape):
    values = numbers(*shape)
    path = write(tmp_path / f"My direction{suffix.lower()}", values)
    edit = import_direction(path.rename(path.with_suffix(suffix)))
    assert (edit.key, edit.label, edit.kind, edit.minimum, edit.maximum) == (
        ("my_direction", "My direction", "file", -100, 100)
    )
    np.testing.assert_array_equal(edit.vector, np.broadcast_to(values, (NUM_STYLES, STYLE_DIM)))
    np.testing.assert_array_equal(edit_offset({edit.key: edit}, {edit.key: 100}), edit.vector)


def test_rows_of_stylegan2_are_mapped(tmp_path):
    values = numbers(18, 512)
    edit = import_direction(write(tmp_path / "e4e.npy", values.astype(np.float64)), name="Curly!")
    assert edit.key == "curly"
    np.testing.assert_array_equal(edit.vector[:15], values[:15])
    np.testing.assert_allclose(edit.vector[15], values[15:].mean(0), atol=1e-7)


def test_unit_normals_get_a_strength_and_a_warning(tmp_path):
    normal = numbers(1, 512)
    normal /= np.linalg.norm(normal)
    edit = import_direction(write(tmp_path / "boundary.npy", normal))
    np.testing.assert_allclose(np.linalg.norm(edit.vector, axis=1), UNIT_REACH, rtol=1e-5)
    assert "unit vector" in edit.caveat
    assert "unit vector" not in import_direction(write(tmp_path / "long.npy", 2 * normal)).caveat


def bomb(path):
    class Bomb:
        def __reduce__(self):
            return open, (str(path.parent / "executed"), "w")

    return Bomb()


def huge_header(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000,), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(64))


def sparse_file(path):
    with path.open("wb") as file:
        file.truncate(2**30)


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(8 * MAX_BYTES))


def pickled(*opcodes):
    return lambda path: path.write_bytes(b"\x80\x04" + b"".join(opcodes) + b".")


def in_zip(content):
    def write_zip(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", content)

    return write_zip


LONG_NAME = b"c" + b"x" * 10**6 + b"\n" + b"y." * 10**4 + b"\n"
BYTEARRAY = b"\x96"  # opcode BYTEARRAY8, followed by its length
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\x10\x00\x00\x00tQ"


def tensor(offset, shape, stride):
    """A zip with a tensor over 16 numbers, of a shape that the file chooses."""
    numbers = [b"J" + struct.pack("<i", number) for number in (offset, shape, stride)]
    parts = (STORAGE, numbers[0], numbers[1], b"\x85", numbers[2], b"\x85", b"\x89", b"N", b"t", b"R.")
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(parts)

    def write_zip(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/data/0", struct.pack("<f", 1) * 16)

    return write_zip


BAD = {
    "longname.pt": pickled(LONG_NAME),
    "longname-zip.pt": in_zip(b"\x80\x02" + LONG_NAME + b"."),
    "gigabytes.pt": pickled(BYTEARRAY, struct.pack("<Q", 3 * 10**9)),
    "petabyte.pt": pickled(BYTEARRAY, struct.pack("<Q", 10**15)),
    "petabyte-zip.pt": in_zip(b"\x80\x05" + BYTEARRAY + struct.pack("<Q", 10**15) + b"."),
    "deep.pt": pickled(b"(" * 10**5, b"l" * 10**5),
    "memo.pt": pickled(b"Nr\xff\xff\xff\x7f"),
    "digits.pt": pickled(b"I" + b"9" * 10**6 + b"\n"),
    "beyond.pt": tensor(0, 17, 1),
    "before.pt": tensor(-4, 4, 1),
    "backwards.pt": tensor(15, 16, -1),
    "strides.pt": tensor(0, 512, 2**30),
    "asked.npy": lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16),
    "token.npy": lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': '''x   "),
    "version.npy": lambda p: p.write_bytes(b"\x93NUMPY\x09\x00\x10\x00" + bytes(16)),
    "folder.safetensors": lambda p: p.mkdir(),
    "length.safetensors": lambda p: p.write_bytes(b"\xff" * 64),
    "cut.pt": lambda p: (torch.save(torch.ones(512), p), p.write_bytes(p.read_bytes()[:900])),
    "zip.pt": lambda p: p.write_bytes(b"PK\x05\x06" + bytes(18)),
    "text.pt": lambda p: p.write_text("not a direction"),
    "text.npy": lambda p: p.write_text("not a direction"),
    "text.safetensors": lambda p: p.write_text("not a direction"),
    "empty.npy": lambda p: p.write_bytes(b""),
    "empty.pt": lambda p: p.write_bytes(b""),
    "photo.jpg": lambda p: p.write_bytes(b"\xff\xd8\xff"),
    "nan.npy": lambda p: np.save(p, np.full(512, np.nan)),
    "inf.pt": lambda p: torch.save(torch.full((512,), torch.inf), p),
    "overflow.npy": lambda p: np.save(p, np.full(512, 1e300)),
    "zero.npy": lambda p: np.save(p, np.zeros(512)),
    "shape.npy": lambda p: np.save(p, numbers(14, 512)),
    "scalar.npy": lambda p: np.save(p, np.float32(1)),
    "transposed.pt": lambda p: torch.save(torch.ones(512, 16), p),
    "strings.npy": lambda p: np.save(p, np.full(512, "a")),
    "complex.npy": lambda p: np.save(p, np.ones(512, complex)),
    "complex.pt": lambda p: torch.save(torch.ones(512, dtype=torch.complex64), p),
    "bool.pt": lambda p: torch.save(torch.ones(512, dtype=torch.bool), p),
    "two.safetensors": lambda p: save_file({"a": numbers(512), "b": numbers(512)}, p),
    "none.safetensors": lambda p: save_file({}, p),
    "list.pt": lambda p: torch.save([1, 2], p),
    "expanded.pt": lambda p: torch.save(torch.ones(1).expand(2**40), p),
    "sparse.pt": lambda p: torch.save(torch.ones(512).to_sparse(), p),
    "objects.npy": lambda p: np.save(p, np.array([bomb(p)] * 512), allow_pickle=True),
    "pickle.pt": lambda p: p.write_bytes(pickle.dumps(bomb(p))),
    "pickle.npy": lambda p: p.write_bytes(pickle.dumps(bomb(p))),
    "torch.pt": lambda p: torch.save(bomb(p), p),
    "strong.npy": lambda p: np.save(p, 1000 * numbers(512)),
    "header.npy": huge_header,
    "gigabyte.npy": sparse_file,
    "gigabyte.pt": sparse_file,
    "gigabyte.safetensors": sparse_file,
    "bomb.pt": zip_bomb,
    "folder.npy": lambda p: p.mkdir(),
    "missing.npy": lambda p: None,
}


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_all_that_torch_writes_is_read_without_it(tmp_path, legacy, kind):
    values = torch.arange(1024).reshape(512, 2).to(kind)[:, 1]  # a view, with an offset and a stride
    contents = [values, {"direction": values}]
    if values.is_floating_point():
        contents.append(torch.nn.Parameter(values))
    for content in contents:
        torch.save(content, tmp_path / "values.pt", _use_new_zipfile_serialization=not legacy)
        with Shared.file(tmp_path / "values.pt") as shared:
            _, (rows,) = files.read_direction(shared, "values.pt", ".pt")
        np.testing.assert_array_equal(rows[3], values.float().numpy())


@pytest.mark.parametrize("name", ["longname.pt", "gigabytes.pt", "petabyte.pt", "deep.pt"])
@pytest.mark.parametrize("load", [import_direction, lambda path: load_mapper(path, numbers(512))])
def test_a_hostile_pickle_stops_nobody_else(tmp_path, name, load):
    BAD[name](tmp_path / name)
    started = time.perf_counter()
    with watched() as watch, pytest.raises(DirectionFileError, match=name):
        load(tmp_path / name)
    assert watch.stall < 0.3
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name):
    BAD[name](tmp_path / name)
    with pytest.raises(DirectionFileError) as error:
        import_direction(tmp_path / name)
    message = str(error.value)
    assert name in message
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 200
    assert not (tmp_path / "executed").exists(), "nothing in a file is executed"
    assert isinstance(error.value, GRAError)


def published_offset(content, codes18):
    """The published forward pass, written out from its description: (18, 512) -> 0.1 * mapper, (18, 512)."""
    result = np.zeros((18, 512))
    for level, rows in (("course", slice(0, 4)), ("medium", slice(4, 8)), ("fine", slice(8, 18))):
        if f"mapper.{level}_mapping.mapping.1.weight" not in content["state_dict"]:
            continue
        x = codes18[rows].astype(np.float64)
        x = x / np.sqrt((x**2).mean(0, keepdims=True) + 1e-8)  # dim=1 of (B, rows, 512)
        for i in range(1, 5):
            prefix = f"mapper.{level}_mapping.mapping.{i}"
            weight, bias = (content["state_dict"][f"{prefix}.{n}"].double().numpy() for n in ("weight", "bias"))
            x = x @ (weight * 0.01 / np.sqrt(512)).T + bias * 0.01
            x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
        result[rows] = x
    return 0.1 * result


@pytest.mark.parametrize("levels", [("course", "medium", "fine"), ("course", "medium"), ("fine",)])
def test_mapper_does_what_the_published_one_does(tmp_path, levels):
    content = mapper_checkpoint(levels)
    torch.save(content, tmp_path / "surprised.pt")
    average = numbers(512, seed=1)
    edit = load_mapper(tmp_path / "surprised.pt", average)
    assert (edit.key, edit.kind) == ("surprised", "mapper")
    for seed in (2, 3):
        code = 10 * numbers(16, 512, seed=seed)
        expected = published_offset(content, code[np.minimum(np.arange(18), 15)])
        expected = np.concatenate([expected[:15], expected[15:].mean(0, keepdims=True)])
        np.testing.assert_allclose(edit_offset({"s": edit}, {"s": 100}, code), expected, atol=1e-4)
        np.testing.assert_allclose(edit_offset({"s": edit}, {"s": -50}, code), -0.5 * expected, atol=1e-4)
    np.testing.assert_array_equal(edit_offset({"s": edit}, {"s": 100}), edit.vector)
    assert not edit_offset({"s": edit}, {"s": 0}, code).any()


def test_mapper_folder(tmp_path):
    for name in ("angry", "afro_hair"):
        torch.save(mapper_checkpoint(("medium",), seed=len(name)), tmp_path / f"{name}.pt")
    edits = load_mappers(tmp_path, numbers(512))
    assert [(edit.key, edit.label) for edit in edits.values()] == [("afro_hair", "afro hair"), ("angry", "angry")]
    assert not np.array_equal(edits["angry"].vector, edits["afro_hair"].vector)
    assert edits["angry"].layers == (4, 7)
    assert load_mapper(tmp_path, numbers(512), file="angry.pt").key == "angry"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pickle", lambda p: pickle.dumps(bomb(p))),
        ("text", lambda p: b"hello"),
        ("tensor", lambda p: torch.ones(3)),
        ("other", lambda p: {"state_dict": {"mapper.mapping.mapping.1.weight": torch.ones(512, 512)}}),
        ("shape", lambda p: {"state_dict": {"mapper.fine_mapping.mapping.1.weight": torch.ones(3)}}),
        ("nan", lambda p: {"state_dict": {k: v * torch.nan for k, v in mapper_checkpoint()["state_dict"].items()}}),
    ],
)  # fmt: skip
def test_bad_mappers_are_refused(tmp_path, name, content):
    path = tmp_path / f"{name}.pt"
    value = content(path)
    path.write_bytes(value) if isinstance(value, bytes) else torch.save(value, path)
    with pytest.raises(DirectionFileError) as error:
        load_mapper(path, numbers(512))
    assert name in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_missing_mapper(tmp_path):
    with pytest.raises(DirectionFileError, match="no mapper checkpoint"):
        load_mapper(tmp_path, numbers(512), file="none.pt")


def test_own_direction_on_the_command_line(tmp_path, face, capsys, monkeypatch):
    from PIL import Image

    class Editor:
        """Stands in for the editor: what it is asked for decides the picture."""

        def __init__(self):
            self.edits = {}

        def invert(self, photo):
            return photo

        def render(self, inversion, strengths):
            level = int(edit_offset(self.edits, strengths)[3, 5])
            return EditOutput(Image.new("RGB", inversion.size, (level, 0, 0)), *STILL)

    monkeypatch.setattr(cli, "load_editor", lambda args: Editor())
    face.save(tmp_path / "face.png")
    values = np.zeros((16, 512), np.float32)
    values[3, 5] = 40
    direction = write(tmp_path / "Curly hair.npy", values)
    common = ["edit", str(tmp_path / "face.png"), "--aligned", "-o", str(tmp_path / "out.png")]
    assert cli.main([*common, "--direction", str(direction), "--set", "curly_hair=50"]) == 0
    assert Image.open(tmp_path / "out.png").getpixel((512, 512)) == (20, 0, 0)
    capsys.readouterr()
    smile = write(tmp_path / "smile.npy", values)
    for file, words in ((smile, "named 'smile' already"), (tmp_path / "no.npy", "no.npy cannot be read")):
        assert cli.main([*common, "--direction", str(file)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
