"""Edits described in words: StyleCLIP's global directions (Patashnik et al., ICCV 2021,
https://arxiv.org/abs/2103.17249, section 6), with a CLIP model from the Hub.

The difference between the text embeddings of a target and a neutral prompt, each the mean over templates, is a
direction in CLIP's space. A style channel is relevant as far as moving it by its own spread moves the picture's
embedding along that direction; channels of little relevance are left out (disentanglement threshold). StyleCLIP
measures the effect of each channel beforehand by rendering it up and down on a hundred faces, which takes hours; here
it is the derivative, which one backward pass a face gives for all channels at once.

Needs the optional package transformers (`pip install -r requirements-text.txt`), and downloads CLIP once (600 MB).
`GRA_TEXT_EDITS=0` switches it off.
"""

import hashlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.constants import MAX_STRENGTH
from gra_core.directions.registry import EditDirection
from gra_core.directions.stylespace import ChannelTap, channel_rows, channel_spread, to_w_plus
from gra_core.errors import GRAError, MissingPackageError
from gra_core.models.generator import Generator, broadcast_w

CLIP_MODEL = "openai/clip-vit-base-patch32"
"""Hub repository of the CLIP model."""

SWITCH = "GRA_TEXT_EDITS"
"""Environment variable that, set to 0, switches edits in words off."""

TEMPLATES = (
    "{}",
    "a photo of {}.",
    "a portrait of {}.",
    "a close-up photo of {}.",
    "a good photo of {}.",
    "a bright photo of {}.",
    "a dark photo of {}.",
    "a blurry photo of {}.",
    "a snapshot of {}.",
    "a studio photo of {}.",
    "an old photo of {}.",
    "a picture of {}, facing the camera.",
)
"""Sentences that a prompt is put into; the mean of their embeddings depends less on the wording."""

FACES = 12
"""Faces over which the relevance of channels is averaged."""

BETA = 0.15
"""Disentanglement threshold: channels less relevant than this share of the most relevant one are left out."""

REACH = 12.0
"""Length in W+ of the offset at +100, about that of the fitted edits (per face, effects differ)."""

SPREAD_SAMPLES = 4000
TRUNCATION = 0.7
MAX_PROMPT = 200

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures (https://github.com/openai/CLIP)."""


def is_available() -> bool:
    """Whether edits in words are switched on and their package is installed."""
    return os.environ.get(SWITCH, "1") != "0" and importlib.util.find_spec("transformers") is not None


class TextDirections:
    """Turns prompts into edits.

    Args:
        clip: transformers' `CLIPModel`, in evaluation.
        tokenizer: its tokenizer.
        cache: folder in which channel statistics are kept.
    """

    def __init__(self, clip: nn.Module, tokenizer: object, cache: Path | None = None) -> None:
        self.clip, self.tokenizer = clip.eval().requires_grad_(False), tokenizer
        self.size = clip.config.vision_config.image_size
        self.cache = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gra-portrait-editor"

    @classmethod
    def from_pretrained(
        cls, name: str = CLIP_MODEL, device: str | torch.device = "cpu", cache: Path | None = None
    ) -> Self:
        """Load CLIP from the Hub (the first time it is downloaded) or a folder.

        Raises:
            GRAError: edits in words are switched off.
            MissingPackageError: transformers is not installed, or CLIP cannot be had.
        """
        if os.environ.get(SWITCH, "1") == "0":
            raise GRAError(f"Edits in words are switched off here ({SWITCH}=0).")
        if importlib.util.find_spec("transformers") is None:
            raise MissingPackageError("Edits in words need the package transformers: pip install transformers==5.23.0.")
        from transformers import CLIPModel, CLIPTokenizer  # noqa: PLC0415

        try:
            clip, tokenizer = CLIPModel.from_pretrained(name), CLIPTokenizer.from_pretrained(name)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MissingPackageError(f"The CLIP model {name} could not be loaded ({reason}).") from error
        return cls(clip.to(device), tokenizer, cache)

    @torch.inference_mode()
    def embed_text(self, prompt: str) -> Tensor:
        """Mean unit embedding (D,) of a prompt over `TEMPLATES`, itself of unit length."""
        texts = [template.format(prompt.replace("{", "").replace("}", "")) for template in TEMPLATES]
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.clip.device)
        pooled = self.clip.text_model(**tokens).pooler_output
        return F.normalize(F.normalize(self.clip.text_projection(pooled), dim=1).mean(0), dim=0)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Unit embeddings (B, D) of pictures (B, 3, H, W) in [-1, 1]; differentiable."""
        x = F.interpolate(pictures, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        pooled = self.clip.vision_model(pixel_values=(x.clamp(-1, 1) / 2 + 0.5 - mean) / std).pooler_output
        return F.normalize(self.clip.visual_projection(pooled), dim=1)

    def text_difference(self, neutral: str, target: str) -> Tensor:
        """Unit vector (D,) from the neutral prompt's embedding to the target's.

        Raises:
            GRAError: a prompt is empty or too long, or both mean the same.
        """
        for prompt in (neutral, target):
            if not 0 < len(prompt.strip()) <= MAX_PROMPT:
                raise GRAError(f"Describe the edit in 1 to {MAX_PROMPT} characters.")
        difference = self.embed_text(target) - self.embed_text(neutral)
        if difference.norm() < 1e-4:
            raise GRAError("The two descriptions mean the same: say what should change.")
        return F.normalize(difference, dim=0)

    def direction(
        self,
        generator: Generator,
        neutral: str,
        target: str,
        *,
        beta: float = BETA,
        reach: float = REACH,
        faces: int = FACES,
        seed: int = 0,
        label: str | None = None,
    ) -> EditDirection:
        """The edit that leads from the neutral to the target description, such as "a face" to "a face with freckles".

        Args:
            generator: with its weights.
            neutral: what the picture shows now.
            target: what it should show.
            beta: disentanglement threshold, 0 to 1: higher moves fewer channels.
            reach: length in W+ of the offset at +100.
            faces: over how many generated faces relevance is averaged; each takes a few seconds on a CPU.
            seed: of these faces.
            label: of the slider; the target by default.

        Raises:
            GRAError: the prompts or numbers cannot be used.
        """
        if not 0 <= beta < 1 or reach <= 0 or faces < 1:
            raise GRAError("beta lies from 0 to 1, reach is positive, and at least one face is needed.")
        difference = self.text_difference(neutral, target)
        relevance = self.channel_relevance(generator, difference, faces, seed)
        spread = self._spread(generator)
        chosen = np.where(np.abs(relevance) >= beta * np.abs(relevance).max(), relevance, 0)
        offset = to_w_plus(generator, chosen * spread, spread)
        offset *= np.float32(reach / np.linalg.norm(offset))
        offset.flags.writeable = False
        label = (label or target).strip()
        rows = np.unique(channel_rows(generator)[chosen != 0])
        return EditDirection(
            "text_" + re.sub(r"\W+", "_", label.lower()).strip("_")[:40],
            label[:60],
            f"+ from “{neutral}” to “{target}”, - the other way.",
            -MAX_STRENGTH,
            MAX_STRENGTH,
            offset,
            "In words",
            "Found by CLIP from the description: what else it changes was not measured.",
            f"StyleCLIP global direction, {int((chosen != 0).sum())} style channels of {len(rows)} rows, beta {beta:g}",
            kind="text",
        )

    def channel_relevance(self, generator: Generator, difference: Tensor, faces: int, seed: int) -> np.ndarray:
        """How far each style channel (C,), moved by its spread, moves pictures along `difference` (D,), on average."""
        z = torch.randn(faces, generator.mean_w.numel(), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            mapped = generator.mapping(z.to(generator.mean_w.device))
            w = generator.mean_w + TRUNCATION * (mapped - generator.mean_w)
        total = torch.zeros(())
        for face in w:
            codes = broadcast_w(face[None]).clone().requires_grad_()
            with torch.enable_grad(), ChannelTap(generator) as tap:
                score = self.embed_pictures(generator(codes)) @ difference.to(codes)
                score.sum().backward()
                total = total + tap.gradient()[0].float().cpu()
        return (total / faces).numpy() * self._spread(generator)

    def _spread(self, generator: Generator) -> np.ndarray:
        """Spread of the style channels (C,), from the cache when it is there."""
        weights = generator.image_modulation.weight.detach().float().cpu().numpy().tobytes()
        mean = generator.mean_w.detach().float().cpu().numpy().tobytes()
        file = self.cache / f"style-spread-{hashlib.sha256(weights + mean).hexdigest()[:16]}.npy"
        if file.is_file():
            try:
                return np.load(file, allow_pickle=False)
            except (OSError, ValueError):
                file.unlink(missing_ok=True)
        z = torch.randn(SPREAD_SAMPLES, generator.mean_w.numel(), generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            spread = channel_spread(generator, generator.mapping(z.to(generator.mean_w.device)))
        self.cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.npy")
        np.save(part, spread)
        part.replace(file)
        return spread
