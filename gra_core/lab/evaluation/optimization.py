"""Inversion by optimising for one picture, the slow and faithful way; for comparison.

Both minimise LPIPS + MSE at 256 px with Adam. As is usual for these methods, the perceptual distance is the one that
is measured afterwards, which favours them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from gra_core.directions.registry import edit_offset
from gra_core.editor import PortraitEditor
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.lab.evaluation.methods import Method
from gra_core.metrics.perceptual import LPIPS
from gra_core.models.encoder import to_encoder_size
from gra_core.models.generator import Generator, broadcast_w

CODE_STEPS = 500
TUNING_STEPS = 350
CODE_RATE = 0.05
TUNING_RATE = 1e-3
RAMP = 0.25
"""Share of the steps over which the rate of the code's optimiser falls to 0 at the end."""


@dataclass(frozen=True, eq=False)
class Optimized:
    """A code (1, 16, 512), and the generator that renders it."""

    codes: Tensor
    generator: Generator


class Optimization:
    """Optimisation of the code alone, or of one code in W first and the generator after it.

    W+ optimisation: Image2StyleGAN (Abdal et al., ICCV 2019, https://arxiv.org/abs/1904.03189). Tuning: pivotal
    tuning, PTI (Roich et al., https://arxiv.org/abs/2106.05744), without its locality regularisation, as its authors'
    code runs by default.
    """

    def __init__(
        self, editor: PortraitEditor, lpips: LPIPS, code_steps: int = CODE_STEPS, tuning_steps: int = TUNING_STEPS
    ) -> None:
        self.editor, self.lpips = editor, lpips
        self.code_steps, self.tuning_steps = code_steps, tuning_steps
        self.tuned = copy.deepcopy(editor.generator)
        wrap = torch.compile if editor.device.type == "cuda" else lambda generator: generator
        self.run_generator, self.run_tuned = wrap(editor.generator), wrap(self.tuned)

    def invert_code(self, portrait: Image.Image) -> Optimized:
        """W+ optimisation from the average face."""
        generator = self.editor.generator
        start = broadcast_w(generator.mean_w[None])
        return Optimized(self._optimize(start, self._target(portrait)), generator)

    def invert_and_tune(self, portrait: Image.Image) -> Optimized:
        """Pivotal tuning: a pivot in W, then all weights of the synthesis network."""
        target = self._target(portrait)
        pivot = broadcast_w(self._optimize(self.editor.generator.mean_w[None], target))
        generator = self.tuned
        generator.load_state_dict(self.editor.generator.state_dict())
        weights = [p.requires_grad_() for name, p in generator.named_parameters() if not name.startswith("mapping")]
        optimizer = torch.optim.Adam(weights, lr=TUNING_RATE)
        for _ in range(self.tuning_steps):
            self._step(optimizer, self.run_tuned, pivot, target)
        return Optimized(pivot, copy.deepcopy(generator).requires_grad_(False))

    @torch.inference_mode()
    def edit(self, inversion: Optimized, strengths: Mapping[str, float]) -> Image.Image:
        """The (tuned) generator's picture of the edited code."""
        offset = torch.from_numpy(edit_offset(self.editor.edits, strengths)).to(inversion.codes)
        return tensor_to_image(inversion.generator(inversion.codes + offset))

    def _target(self, portrait: Image.Image) -> Tensor:
        return to_encoder_size(image_to_tensor(portrait).to(self.editor.device))

    def _optimize(self, start: Tensor, target: Tensor) -> Tensor:
        """The code (1, 512) or (1, 16, 512) that `start` becomes."""
        codes = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=CODE_RATE)
        for step in range(self.code_steps):
            optimizer.param_groups[0]["lr"] = CODE_RATE * min(1.0, (1 - step / self.code_steps) / RAMP)
            self._step(optimizer, self.run_generator, codes, target)
        return codes.detach()

    def _step(
        self, optimizer: torch.optim.Optimizer, generator: Callable[[Tensor], Tensor], codes: Tensor, target: Tensor
    ) -> None:
        picture = to_encoder_size(generator(codes if codes.ndim == 3 else broadcast_w(codes)))
        loss = self.lpips(picture, target).mean() + (picture - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def optimization_methods(editor: PortraitEditor, lpips: LPIPS) -> dict[str, Method]:
    """W+ optimisation and pivotal tuning."""
    optimization = Optimization(editor, lpips)
    return {
        "w_plus_optimization": Method(optimization.invert_code, optimization.edit),
        "pivotal_tuning": Method(optimization.invert_and_tune, optimization.edit),
    }
