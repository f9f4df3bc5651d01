"""Fixtures that several test files share."""

import csv
import os
import signal
import zlib
from pathlib import Path

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image, ImageOps
from skimage import data

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # how fast examples are says nothing of the code
signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell starts what runs in its background deaf to Ctrl+C, and servers that the tests start would inherit that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test has the mark of its folder."""
    for item in items:
        if item.path.parent.parent == HERE:
            item.add_marker(item.path.parent.name)


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """A photo with one face: 512 x 512, in the public domain (NASA)."""
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def face(astronaut) -> Image.Image:
    """The astronaut's face, cut by hand where FFHQ alignment would cut it; 512 px."""
    return astronaut.resize((512, 512), Image.Resampling.BICUBIC, box=(138, 20, 312, 194))


@pytest.fixture(scope="session")
def random_lpips():
    """The LPIPS network with seeded weights; heads positive, as the published ones are."""
    import torch

    from gra_core.metrics.perceptual import LPIPS

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LPIPS()
    for head in model.heads:
        head.weight.abs_()
    return model


@pytest.fixture(scope="session")
def photo_file(astronaut, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    astronaut.save(path)
    return path


@pytest.fixture(scope="session")
def pair_file(astronaut, tmp_path_factory) -> Path:
    """A photo with two faces, the larger one to the left, the smaller one mirrored: 1400 x 1000."""
    photo = Image.new("RGB", (1400, 1000), (90, 110, 100))
    photo.paste(astronaut.resize((900, 900)), (20, 60))
    photo.paste(ImageOps.mirror(astronaut.crop((100, 0, 350, 250)).resize((420, 420))), (950, 300))
    path = tmp_path_factory.mktemp("photo") / "pair.png"
    photo.save(path)
    return path


@pytest.fixture(scope="session")
def editor():
    """The real editor with the committed weights, loaded once."""
    from gra_core.editor import PortraitEditor

    return PortraitEditor.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """Address of the page with a quick stand-in for the model, in a process of its own."""
    from serving import SERVER, served

    with served(tmp_path_factory.mktemp("page"), [SERVER]) as address:
        yield address


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory) -> dict[str, Path]:
    """Files that are not photos of a face, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    files = {name: folder / name for name in ("text.jpg", "empty.jpg", "bomb.png", "nobody.png")}
    files["text.jpg"].write_text("This is not a picture.\n")
    files["empty.jpg"].touch()
    files["bomb.png"].write_bytes(hostile.png(60_000, 60_000, 8, 0, zlib.compress(bytes(1000))))
    Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(files["nobody.png"])
    return files


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A small CLIP, as it comes from the Hub."""
    from small_weights import write_clip

    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder of clips of a still picture: one for training, whose last quad is turned and moved, and one held out."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC)
    quads = ["30 30 30 130 130 130 130 30", "32 30 32 130 132 130 132 30", "50 25 40 125 140 135 150 35"]
    rows = [("a", i, quad, "0 0 160 160", "train") for i, quad in enumerate(quads)]
    rows += [("b", i, quads[0], "0 80 160 160", "val") for i in range(2)]
    for clip, frame, *_ in rows:
        (folder / clip).mkdir(exist_ok=True)
        picture.save(folder / clip / f"{frame}.png")
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("clip", "frame", "quad", "picture_box", "split"), *rows])
    return folder
