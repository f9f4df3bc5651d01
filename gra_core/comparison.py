"""One face and one edit, by several methods side by side, and what each stage of the Editing Stream does.

The two "not aligned" methods are ablations of the committed weights, which were trained with alignment and all stages:
they show what these weights do without it, not how well a model trained that way would do. Nothing here is needed to
edit; it is for people who want to see why alignment is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.directions.registry import EditDirection
from gra_core.editor import Inversion, PortraitEditor
from gra_core.heatmaps import flow_map, heat_map
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.metrics.identity import face_descriptor, identity_distance
from gra_core.metrics.perceptual import LPIPS
from gra_core.metrics.pixels import METRIC_SIZE, mse, resize
from gra_core.models.editing import GlobalAlignmentModule
from gra_core.models.layers import STAGES

ONE_SHOT_SIDE = 64
"""The stage, by its side in pixels, at which the one-shot method gives all that it has of the photo."""

METHODS = {
    "input": ("Input", "the aligned photo"),
    "low_rate": ("Low-rate code", "the generator's picture of the code alone, no residuals"),
    "one_shot": (
        "One-shot, not aligned",
        f"ablation of the same weights: one residual, at {ONE_SHOT_SIDE} px, left where it was in the photo",
    ),
    "gradual": ("Gradual, not aligned", "ablation of the same weights: all residuals, left where they were"),
    "gra": ("GRA", "all residuals, aligned to the edited face"),
}
"""Columns of the comparison: title and what it is."""


@dataclass(frozen=True)
class StageMaps:
    """Maps of one stage, as pictures of one size.

    Attributes:
        side: side of the stage's feature in positions.
        residual: magnitude of the residual F_m where it was found in the photo.
        aligned: magnitude of the residual after alignment.
        flow: where each position takes its residual from: hue is the direction, strength of colour the distance.
        farthest: the longest distance in `flow`, in pixels of the final picture.
    """

    side: int
    residual: Image.Image
    aligned: Image.Image
    flow: Image.Image
    farthest: float


@dataclass(frozen=True)
class Comparison:
    """Pictures by method, in the order of METHODS, and the maps of each stage, coarse to fine."""

    pictures: dict[str, Image.Image]
    stages: tuple[StageMaps, ...]


@torch.inference_mode()
def compare(
    editor: PortraitEditor,
    aligned: Image.Image,
    strengths: Mapping[str, float],
    edits: Mapping[str, EditDirection] | None = None,
) -> Comparison:
    """Edit an aligned face by each method.

    Args:
        editor: with its weights.
        aligned: FFHQ-aligned face, RGB, 1024 px.
        strengths: slider values by edit key.
        edits: the edits to choose from, such as a visitor's own beside the editor's, the default.

    Raises:
        UnknownEditError, StrengthError: as `PortraitEditor.edit`.
    """
    inversion = editor.invert(aligned)
    codes = editor.edited_codes(inversion, strengths, edits)
    photo = image_to_tensor(aligned).to(editor.device)
    edit = editor.streams.editing(editor.generator, codes, inversion.source)
    pictures = {
        "input": aligned,
        "low_rate": editor.low_rate(inversion, strengths, edits),
        "one_shot": tensor_to_image(_one_shot(editor, photo, inversion.codes, codes)),
        "gradual": tensor_to_image(_gradual(editor, inversion, codes)),
        "gra": tensor_to_image(editor.finish(edit, inversion, strengths, edits).picture),
    }
    stages = []
    for side, residual in zip(STAGES, inversion.source.residuals, strict=True):
        flow = edit.flows[side][0]
        brightest = float(torch.quantile(residual.norm(dim=1), 0.995))
        stages.append(
            StageMaps(
                side=side,
                residual=heat_map(residual[0].norm(dim=0).cpu().numpy(), brightest),
                aligned=heat_map(edit.aligned[side][0].norm(dim=0).cpu().numpy(), brightest),
                flow=flow_map(flow.cpu().numpy()),
                farthest=float(flow.norm(dim=0).max()) * IMAGE_SIZE / side,
            )
        )
    return Comparison(pictures, tuple(stages))


@torch.inference_mode()
def figures(comparison: Comparison, lpips: LPIPS | None) -> dict[str, dict[str, float | None]]:
    """LPIPS, MSE (both at 256 px) and identity distance of each picture to the input; LPIPS is None without weights."""

    def small(picture: Image.Image) -> Tensor:
        return resize(image_to_tensor(picture), METRIC_SIZE)

    original = comparison.pictures["input"]
    target, person = small(original), face_descriptor(original)
    result = {}
    for method, picture in comparison.pictures.items():
        if method == "input":
            continue
        pixels = small(picture)
        result[method] = {
            "lpips": lpips(pixels, target).item() if lpips else None,
            "mse": mse(pixels, target).item(),
            "identity": identity_distance(face_descriptor(picture), person),
        }
    return result


def _unaligned(module: GlobalAlignmentModule, feature: Tensor, key: Tensor, residual: Tensor) -> Tensor:
    """Gate & Fusion of a residual that stays where it was; the gate sees the match of that place."""
    attention = module.attention
    still = feature.new_zeros((len(feature), 2, *feature.shape[-2:]), dtype=torch.float32)
    _, context = attention(feature, key, still)
    query, keys = attention.embed(feature), key.shape[1]
    certainty = context[:, keys : keys + 1]
    context = torch.cat((query - key, certainty, (query * key).sum(1, keepdim=True)), 1)
    return module.fuse(feature, residual, context)


def _gradual(editor: PortraitEditor, inversion: Inversion, codes: Tensor) -> Tensor:
    """The Editing Stream with every residual at its position in the photo, the pixel residual included."""
    stream, source = editor.streams.editing, inversion.source
    features: dict[int, Tensor] = {}

    def inject(side: int, feature: Tensor) -> Tensor:
        features[side] = feature
        if side not in STAGES:
            return feature
        stage = STAGES.index(side)
        return _unaligned(stream.modules_by_stage[str(side)], feature, source.keys[stage], source.residuals[stage])

    plain = editor.generator.render(codes, inject)
    still = plain.new_zeros((len(plain), 2, STAGES[-1], STAGES[-1]))
    picture, _ = stream.pixels(plain, features[source.image.shape[-1]], source, still)
    return picture


def _one_shot(editor: PortraitEditor, photo: Tensor, codes: Tensor, edited_codes: Tensor) -> Tensor:
    """One residual, of the unrepaired feature of one stage, left at its position in the photo."""
    reconstruction = editor.streams.reconstruction
    photo_feature = reconstruction.detail_encoder(photo)[ONE_SHOT_SIDE]
    module = editor.streams.editing.modules_by_stage[str(ONE_SHOT_SIDE)]
    unrepaired = editor.generator.feature(codes, ONE_SHOT_SIDE)
    residual, _ = reconstruction.modules_by_stage[str(ONE_SHOT_SIDE)](photo_feature, unrepaired)
    key = module.attention.embed(unrepaired)

    def inject(side: int, feature: Tensor) -> Tensor:
        return _unaligned(module, feature, key, residual) if side == ONE_SHOT_SIDE else feature

    return editor.generator.render(edited_codes, inject)
