"""`train prepare`, and the reader of what it makes."""

import hashlib
from pathlib import Path

import pytest
from small_nets import noise

from gra_core.errors import GRAError, UnreadableImageError
from gra_core.lab.training import prepare
from gra_core.lab.training.prepared import MANIFEST, Picture, PreparedSet


def prepared(out: Path, *arguments: object) -> PreparedSet:
    prepare.main([*map(str, arguments), "--out", str(out)])
    return PreparedSet(out)


def indexed(folder: Path, *lines: str) -> Path:
    """A folder of aligned photos that an index names."""
    folder.mkdir()
    for line in lines[1:]:
        noise(folder / line.split(",")[0])
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_raw_photos_and_clips_are_aligned(astronaut, tmp_path):
    """Where the face lies in a photo makes no difference; what shows none is left out."""
    photos, clips = tmp_path / "photos", tmp_path / "clips"
    photos.mkdir()
    astronaut.save(photos / "a.png")
    noise(photos / "nobody.png")
    for clip, shifts in (("talks", (0, 8)), ("alone", (0,))):
        (clips / clip).mkdir(parents=True)
        for shift in shifts:
            astronaut.crop((shift, 0, 480 + shift, 400)).save(clips / clip / f"{shift}.png")
    data = prepared(tmp_path / "out", "--photos", photos, "--clips", clips, "--held-out", 1)
    (photo,), (frames,) = data.photos("val"), data.clips("val")
    assert (photo.file, photo.person, photo.source) == ("photos/val/photos-a.webp", "photos/a", "photos")
    assert data.read(photo).size == (1024, 1024)
    assert photo.quad == (0, 0, 0, 1024, 1024, 1024, 1024, 0)
    assert [frame.file for frame in frames] == ["clips/clips-talks/0.webp", "clips/clips-talks/8.webp"]
    assert len({data.read(frame).size for frame in frames}) == 1
    moved = frames[0].quad[0] - frames[1].quad[0]
    assert moved == pytest.approx(8, abs=2)
    assert 0 <= frames[1].box[2] == data.read(frames[1]).width < 480
    again = prepared(tmp_path / "again", "--photos", photos, "--clips", clips, "--held-out", 1)
    assert again.sha256 == data.sha256
    none = prepared(tmp_path / "none", "--photos", photos, "--held-out", 1e-9)
    assert len(none.photos("train")) == 1


def test_pictures_of_an_index_are_copied_as_they_are(clips, tmp_path):
    folder = indexed(tmp_path / "faces", "file,identity,source", "train/1.png,7,x", "val/2.png,8,x")
    data = prepared(tmp_path / "out", "--photos", folder, "--clips", clips)
    (photo,) = data.photos("val")
    assert (photo.person, photo.source) == ("faces/8", "x")
    assert photo.sha256 == hashlib.sha256((folder / "val" / "2.png").read_bytes()).hexdigest()
    assert [len(clip) for clip in data.clips("train")] == [3]
    assert data.clips("val")[0][0].box == (0, 80, 160, 160)


def test_a_person_in_both_splits_is_an_error(tmp_path):
    folder = indexed(tmp_path / "faces", "file,person", "train/1.png,a", "val/2.png,a")
    with pytest.raises(GRAError, match="faces/a is in both splits"):
        prepared(tmp_path / "out", "--photos", folder)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("name", "train/1.png"), "no column file"),
        (("file,split", "train/1.png,test"), "no split"),
        (("file",), "No picture with a face"),
    ],
)
def test_an_index_that_is_wrong_is_an_error(lines, message, tmp_path):
    folder = indexed(tmp_path / "faces", *lines)
    with pytest.raises(UnreadableImageError, match=message):
        prepared(tmp_path / "out", "--photos", folder)


def test_data_that_is_missing_or_damaged_is_an_error(tmp_path):
    with pytest.raises(UnreadableImageError, match="train prepare"):
        PreparedSet(tmp_path)
    folder = indexed(tmp_path / "faces", "file", "train/1.png")
    data = prepared(tmp_path / "out", "--photos", folder)
    (photo,) = data.photos("train")
    with pytest.raises(UnreadableImageError, match="no photos of the split 'val'"):
        data.photos("val")
    noise(data.folder / photo.file, side=32)
    with pytest.raises(UnreadableImageError, match="missing or damaged"):
        data.read(photo)
    (data.folder / MANIFEST).write_text("file,sha256\nx,y\n")
    with pytest.raises(UnreadableImageError, match="damaged"):
        PreparedSet(data.folder)


def test_rows_come_back():
    picture = Picture("photos/train/a.webp", "0" * 64, "train", "a", (0, 0, 0, 8.25, 8, 8, 8, 0), (0, -1.5, 8, 8), "x")
    assert Picture.of_row(picture.row()) == picture
