"""The Editing Stream: the generator on the edited code, with the photo's residuals brought to the edited layout.

At each stage a Global Alignment Module finds where every position of the edited feature comes from in the source
feature (Selective Attention), moves the residual F_m there, and lets Gate & Fusion decide how much of it still holds
(paper, section "Editing Stream"). The public text gives no equations for the aligner; the ones here are our own:

- correspondences go coarse to fine, 16 to 128 px: each stage searches a window around what the stage before found;
- of the window only the best keys are selected; the source position is their attention-weighted mean, so it is
  exact to a fraction of a position, and the residual is sampled there once instead of being averaged;
- the source features are the stream's own, without an edit (`EditingStream.prepare`), so like is compared with like: a
  position whose feature the edit leaves as it is does not move at all.

A last stage treats what no feature carries, the photo's finest detail, as pixels, moved by the finest correspondence.
Those pixels are what the stream itself, without an edit, lacks of the photo, and where an edit changes nothing they
pass whole: without an edit the result is the photo. The generator's upsampling artefacts are
removed first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.constants import IMAGE_SIZE
from gra_core.models.generator import FEATURE_CHANNELS, GeneratorInterface, StageHook
from gra_core.models.layers import (
    GATE_CHANNELS,
    RESIDUAL_CHANNELS,
    GateFusion,
    StreamsDesign,
    inverse_magnitude,
    project_at_unit_scale,
)
from gra_core.models.maps import averaged, box_filter, dilate, upscale, upscale_flow, warp

KEY_CHANNELS = {16: 64, 32: 64, 64: 64, 128: 32}
"""Channels in which edited and source features are compared."""

SEARCH_RADIUS = {16: 4, 32: 2, 64: 2, 128: 1}
"""Half width of the search window in positions of the stage."""

REFINER_CHANNELS = {16: 64, 32: 64, 64: 48, 128: 24}
SELECTED_KEYS = 4
MATCH_CHANNELS = 2
"""Of the context besides the feature difference: certainty and similarity of the match."""

PIXEL_GATE_SIDE = 256
PIXEL_GATE_CHANNELS = 24
PIXEL_FEATURE_CHANNELS = 16
PIXEL_LOW_PASS = 8

STILL_CHANGE = 0.05
"""A change of the picture, in [-1, 1] at 256 px, at which the pixel gates close half as far as they learned to."""
STILL_MARGIN = 5
"""Side, in pixels of 256, of what has to be unchanged around a pixel: an edge that moves changes its surroundings."""


@dataclass(frozen=True, eq=False)
class AlignmentSource:
    """Data of a photo that the Editing Stream reads: small enough to keep while the photo is being edited.

    Attributes:
        residuals: F_m of each stage, coarse to fine, (B, RESIDUAL_CHANNELS[m], m, m).
        keys: the stream's feature of each stage without an edit, as unit vectors for comparison,
            (B, KEY_CHANNELS[m], m, m).
        image: the stream's picture without an edit and without pixels, at 256 px, (B, 3, 256, 256).
        pixels: photo minus that picture at full size, (B, 3, 1024, 1024).
    """

    residuals: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    image: Tensor
    pixels: Tensor


@dataclass(frozen=True, eq=False)
class Edit:
    """Output of the Editing Stream.

    Attributes:
        picture: RGB, about [-1, 1], (B, 3, 1024, 1024).
        before_pixels: the same without the pixel residual.
        flows: correspondence by side of the stage, (B, 2, m, m): source position minus own, x and y, in positions.
        aligned: aligned F_m by side of the stage.
        keep: how far the photo's finest detail, moved along the finest flow, holds, 0 to 1, (B, 1, 256, 256).
    """

    picture: Tensor
    before_pixels: Tensor
    flows: dict[int, Tensor]
    aligned: dict[int, Tensor]
    keep: Tensor


@dataclass(eq=False)
class _Run:
    """Results of one run of the generator, by side of the stage; `picture` is without pixels."""

    features: dict[int, Tensor]
    keys: dict[int, Tensor]
    flows: dict[int, Tensor]
    aligned: dict[int, Tensor]
    picture: Tensor | None = None


def neighbourhood(x: Tensor, radius: int) -> Tensor:
    """The (2r+1)^2 shifted copies of (B, C, H, W), edges repeated -> (B, (2r+1)^2, C, H, W), row by row."""
    batch, channels, height, width = x.shape
    side = 2 * radius + 1
    columns = F.unfold(F.pad(x, (radius,) * 4, mode="replicate"), side)
    return columns.view(batch, channels, side * side, height, width).transpose(1, 2)


def window_similarity(query: Tensor, key: Tensor, radius: int) -> Tensor:
    """Inner products of each query with the keys in a window around it.

    Query and key (B, C, H, W) -> (B, (2r+1)^2, H, W), keys in the order of `neighbourhood`.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return (query[:, None] * neighbourhood(key, radius)).sum(2)
    # Shift by shift: the products of one shift stay in the cache, where all at once do not.
    batch, _, height, width = query.shape
    side = 2 * radius + 1
    padded = F.pad(key, (radius,) * 4, mode="replicate")
    similarity = query.new_empty(batch, side * side, height, width)
    for i in range(side * side):
        y, x = divmod(i, side)
        torch.sum(query * padded[:, :, y : y + height, x : x + width], 1, out=similarity[:, i])
    return similarity


class SelectiveAttention(nn.Module):
    """Where each position of the edited feature comes from in the source feature.

    Queries are edited positions, keys the source positions in a window around the coarser stage's answer; cosine
    similarity with a learned distance prior. Only the `SELECTED_KEYS` best keys take part in the softmax. With
    alignment "dense" all of them do; with "none" nothing is searched, and every position comes from itself.
    """

    def __init__(self, side: int, alignment: str, channels: int) -> None:
        super().__init__()
        self.radius = SEARCH_RADIUS[side]
        keys, width = KEY_CHANNELS[side], REFINER_CHANNELS[side]
        window = (2 * self.radius + 1) ** 2
        self.project = nn.Conv2d(channels, keys, 1, bias=False)
        nn.init.orthogonal_(self.project.weight.view(keys, -1))
        self.searches = alignment != "none"
        if not self.searches:
            return
        self.selected_keys = window if alignment == "dense" else SELECTED_KEYS
        self.log_sharpness = nn.Parameter(torch.tensor(3.0))
        self.distance_prior = nn.Parameter(torch.tensor(0.02))
        self.stillness = nn.Parameter(torch.tensor(-6.0))
        steps = torch.arange(-self.radius, self.radius + 1, dtype=torch.float32)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("steps", torch.stack((dx.flatten(), dy.flatten()), 1), persistent=False)
        self.refine = nn.Sequential(
            nn.Conv2d(2 * keys + window + 2, width, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(width, 3, 3, 1, 1),
        )
        nn.init.zeros_(self.refine[-1].weight)
        nn.init.zeros_(self.refine[-1].bias)

    def embed(self, feature: Tensor) -> Tensor:
        """Generator feature (B, C, H, W) -> unit vectors (B, K, H, W) for comparison, channel means removed."""
        x = project_at_unit_scale(self.project, feature, inverse_magnitude(feature))
        return F.normalize((x - x.mean((2, 3), keepdim=True)).float(), dim=1)

    def forward(self, edited: Tensor, key: Tensor, coarse_flow: Tensor) -> tuple[Tensor, Tensor]:
        """Find the correspondence of one stage.

        Args:
            edited: feature of the Editing Stream as it arrives at the stage, (B, C, H, W).
            key: `embed` of the feature that arrives there without an edit, (B, K, H, W).
            coarse_flow: answer of the stage before in this stage's positions, (B, 2, H, W).

        Returns:
            flow (B, 2, H, W): source position minus own position, x and y, in positions;
            context (B, K + 2, H, W) for the gate: difference to the matched feature, certainty, similarity.
        """
        query = self.embed(edited)
        if not self.searches:
            similarity = (query * key).sum(1, keepdim=True)
            return coarse_flow, torch.cat((query - key, torch.zeros_like(similarity), similarity), 1)
        moved_key = warp(key, coarse_flow)
        similarity = window_similarity(query, moved_key, self.radius)
        prior = F.softplus(self.distance_prior) * self.steps.square().sum(1)[:, None, None]
        score = self.log_sharpness.exp() * similarity - prior
        selected, index = score.topk(self.selected_keys, dim=1)
        attention = torch.zeros_like(score).scatter(1, index, selected.softmax(1))
        candidates = neighbourhood(coarse_flow, self.radius) + self.steps[:, :, None, None]
        flow = (attention[:, :, None] * candidates).sum(1)

        refined = self.refine(torch.cat((query, moved_key, similarity, flow), 1))
        change = (query - key).square().mean(1, keepdim=True) * key.shape[1]
        moving = change / (change + self.stillness.exp())
        flow = (flow + refined[:, :2].float()) * moving
        matched = warp(key, flow)
        context = torch.cat((query - matched, refined[:, 2:], (query * matched).sum(1, keepdim=True)), 1)
        return flow, context


class GlobalAlignmentModule(nn.Module):
    """Aligner with Selective Attention, then Gate & Fusion, for one stage of the Editing Stream."""

    def __init__(self, side: int, alignment: str, channels: int) -> None:
        super().__init__()
        self.attention = SelectiveAttention(side, alignment, channels)
        context = KEY_CHANNELS[side] + MATCH_CHANNELS
        self.fuse = GateFusion(channels, RESIDUAL_CHANNELS[side], GATE_CHANNELS[side], context)

    def forward(
        self, edited: Tensor, key: Tensor, residual: Tensor, coarse_flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Edited feature, source keys, F_m, coarser flow -> repaired edited feature, flow, aligned F_m."""
        flow, context = self.attention(edited, key, coarse_flow)
        aligned = warp(residual, flow)
        return self.fuse(edited, aligned, context), flow, aligned


class PixelAlignmentModule(nn.Module):
    """Brings the pixel residual to the edited layout; coarse and fine detail pass through gates of their own.

    Where the edit leaves the picture as it is, both gates are open, whatever was learned.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.from_feature = nn.Conv2d(channels, PIXEL_FEATURE_CHANNELS, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(12 + PIXEL_FEATURE_CHANNELS, PIXEL_GATE_CHANNELS, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(PIXEL_GATE_CHANNELS, PIXEL_GATE_CHANNELS, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(PIXEL_GATE_CHANNELS, 2, 3, 1, 1),
        )

    def forward(self, edited: Tensor, feature: Tensor, source: AlignmentSource, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Edited picture (B, 3, 1024, 1024), its 256 px feature, source, finest flow -> final picture, fine gate."""
        size = edited.shape[-1]
        pixels = warp(source.pixels, upscale_flow(flow, size // flow.shape[-1]))
        pool = size // PIXEL_GATE_SIDE
        small_edited = F.avg_pool2d(edited, pool)
        moved = warp(source.image, upscale_flow(flow, PIXEL_GATE_SIDE // flow.shape[-1]))
        seen = (
            small_edited,
            10 * (small_edited - moved),
            10 * F.avg_pool2d(pixels, pool),
            10 * F.avg_pool2d(pixels.abs(), pool),
            project_at_unit_scale(self.from_feature, feature, inverse_magnitude(feature)),
        )
        closed = torch.sigmoid(-self.gate(torch.cat(seen, 1))) * changing(small_edited - moved)
        opened = 1 - closed
        gates = upscale(opened, pool)
        low = averaged(pixels, PIXEL_LOW_PASS)
        return edited + gates[:, :1] * low + gates[:, 1:] * (pixels - low), opened[:, 1:]


def changing(difference: Tensor) -> Tensor:
    """How far a picture's change (B, 3, H, W) counts as one, in [0, 1), at and around each pixel (B, 1, H, W)."""
    change = dilate(difference.abs().amax(1, keepdim=True), STILL_MARGIN // 2)
    change = box_filter(change, STILL_MARGIN).square()
    return change / (change + STILL_CHANGE**2)


class EditingStream(nn.Module):
    """Runs the frozen generator on the edited code with aligned residual injection."""

    def __init__(self, design: StreamsDesign | None = None, channels: Mapping[int, int] = FEATURE_CHANNELS) -> None:
        """`channels`: of the generator's feature by side in pixels."""
        super().__init__()
        self.design = design or StreamsDesign()
        alignment, sides = self.design.alignment, self.design.stages
        modules = {str(side): GlobalAlignmentModule(side, alignment, channels[side]) for side in sides}
        self.modules_by_stage = nn.ModuleDict(modules)
        if self.design.pixels:
            self.pixels = PixelAlignmentModule(channels[PIXEL_GATE_SIDE])

    def prepare(
        self, generator: GeneratorInterface, codes: Tensor, photo: Tensor, residuals: tuple[Tensor, ...]
    ) -> AlignmentSource:
        """Compute once what every edit of a photo reads: a run without an edit.

        Args:
            generator: the frozen generator.
            codes: the photo's W+ codes, (B, 16, 512).
            photo: in [-1, 1], (B, 3, 1024, 1024).
            residuals: F_m from the Reconstruction Stream, coarse to fine.
        """
        run = self._run(generator, codes, residuals)
        small = F.avg_pool2d(run.picture, IMAGE_SIZE // PIXEL_GATE_SIDE)
        return AlignmentSource(residuals, tuple(run.keys.values()), small, photo - run.picture)

    def forward(self, generator: GeneratorInterface, codes: Tensor, source: AlignmentSource) -> Edit:
        """Render an edit.

        Args:
            generator: the frozen generator.
            codes: edited W+ codes, (B, 16, 512).
            source: of the photo, from `prepare`.
        """
        run = self._run(generator, codes, source.residuals, source.keys)
        picture, keep = run.picture, torch.zeros_like(source.image[:, :1])
        if self.design.pixels:
            finest = run.flows[self.design.stages[-1]]
            picture, keep = self.pixels(run.picture, run.features[PIXEL_GATE_SIDE], source, finest)
        return Edit(picture, run.picture, run.flows, run.aligned, keep)

    def correspondence(self, generator: GeneratorInterface, before: Tensor, after: Tensor) -> Tensor:
        """Where each position after an edit comes from, by the finest stage, without any photo.

        Args:
            generator: the frozen generator.
            before: W+ codes, (B, 16, 512).
            after: the same, edited.

        Returns:
            flow (B, 2, S, S): source position minus own, x and y, in positions.
        """
        sides = self.design.stages
        nothing = tuple(before.new_zeros(len(before), RESIDUAL_CHANNELS[side], side, side) for side in sides)
        run, inject = self._injection(nothing)
        generator.feature(before, sides[-1], inject)
        run, inject = self._injection(nothing, tuple(run.keys.values()))
        generator.feature(after, sides[-1], inject)
        return run.flows[sides[-1]]

    def _run(
        self,
        generator: GeneratorInterface,
        codes: Tensor,
        residuals: tuple[Tensor, ...],
        keys: tuple[Tensor, ...] | None = None,
    ) -> _Run:
        """The generator with aligned residuals; `keys` as in `_injection`."""
        run, inject = self._injection(residuals, keys)
        run.picture = generator.render(codes, inject)
        return run

    def _injection(
        self, residuals: tuple[Tensor, ...], keys: tuple[Tensor, ...] | None = None
    ) -> tuple[_Run, StageHook]:
        """A hook that repairs each stage of a generator's run with aligned residuals, and its record of that run.

        Without keys every stage is compared with itself: nothing moves.
        """
        stages = self.design.stages
        run = _Run({}, {}, {}, {})

        def inject(side: int, feature: Tensor) -> Tensor:
            run.features[side] = feature
            if side not in stages:
                return feature
            stage = stages.index(side)
            if stage == 0:
                coarse = feature.new_zeros((len(feature), 2, side, side), dtype=torch.float32)
            else:
                coarse = upscale_flow(run.flows[stages[stage - 1]], side // stages[stage - 1])
            module = self.modules_by_stage[str(side)]
            run.keys[side] = module.attention.embed(feature) if keys is None else keys[stage]
            repaired, run.flows[side], run.aligned[side] = module(feature, run.keys[side], residuals[stage], coarse)
            return repaired

        return run, inject
