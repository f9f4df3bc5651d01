"""Searches the style channels for those that move one region of the face only.

    python -m gra_core directions search --nets DIR --faces 15

For each region the channels with the largest share of their effect inside it, of the tenth that moves it most: row and
number of the channel, that share, and its effect on the region's pixels by one standard deviation of the channel.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from gra_core.alignment import landmark_model
from gra_core.directions.stylespace import channel_rows, channel_spread
from gra_core.lab.directions.appearance import Portrait
from gra_core.lab.directions.channels import SPREAD_SEED, region_energy
from gra_core.lab.directions.person import PersonMask
from gra_core.lab.directions.regions import REGIONS, face_regions
from gra_core.lab.directions.response import codes_of
from gra_core.lab.directions.sampling import Renderer, load_generator, sample_w
from gra_core.lab.directions.scores import FACE_BOX
from gra_core.lab.directions.tfjs import require

FACE_TRUNCATION = 0.7
STRONGEST = 0.9
"""Quantile of the effect on a region from which channels are considered for it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `directions search`."""
    parser.add_argument(
        "--nets", type=Path, required=True, metavar="DIR", help="folder with selfie.json and selfie.bin"
    )
    parser.add_argument("--faces", type=int, default=15, metavar="N", help="generated faces to look at (15)")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="random signs for each face and region (3)")
    parser.add_argument("--top", type=int, default=6, metavar="N", help="channels to list for each region (6)")
    parser.add_argument("--seed", type=int, default=77)


def run(args: argparse.Namespace) -> int:
    """`directions search`."""
    require("dlib")
    import dlib  # noqa: PLC0415

    person, predictor = PersonMask(args.nets), dlib.shape_predictor(str(landmark_model()))
    generator = load_generator()
    render = Renderer(generator)
    energies = []
    for i, code in enumerate(codes_of(sample_w(generator, args.faces, args.seed, FACE_TRUNCATION))):
        (picture,) = render(code[None])
        shape = predictor(picture, dlib.rectangle(*FACE_BOX))
        points = np.float32([(point.x, point.y) for point in shape.parts()])
        shown = person(picture.transpose(2, 0, 1)[None] / 127.5 - 1)[0, 0]
        masks = face_regions(Portrait(picture, points), shown)
        codes = torch.from_numpy(code[None]).to(generator.mean_w)
        energies.append(region_energy(generator, codes, masks, args.tries, seed=i))
    w = torch.from_numpy(sample_w(generator, 4000, SPREAD_SEED, 1.0)).to(generator.mean_w)
    energy = np.stack(energies) * channel_spread(generator, w) ** 2
    rows = channel_rows(generator)
    share = (energy / (energy.sum(1, keepdims=True) + 1e-30)).mean(0)
    size = np.sqrt(energy.mean(0))
    for k, region in enumerate(REGIONS):
        local = np.where(size[k] >= np.quantile(size[k], STRONGEST), share[k], 0)
        for channel in np.argsort(-local)[: args.top]:
            figures = f"{share[k, channel]:>8.0%}{size[k, channel]:>8.2f}"
            print(f"{region:<12}row {rows[channel]:>2} channel {channel:>5}{figures}")
    return 0
