"""Train the encoder: `python -m gra_core train encoder --data DIR ...`, alone or under `torchrun`.

First a short while on generated faces with known codes only (no gradient through the generator, so it is fast),
then on real and generated faces with picture losses through the frozen generator.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import CHECKPOINT_DIR, ENCODER_SIZE, IMAGE_SIZE
from gra_core.editor import PortraitEditor
from gra_core.models.editing import sample_at, upscale_flow
from gra_core.models.encoder import Encoder, estimate_codes, to_encoder_size
from gra_core.models.generator import Generator, broadcast_w
from gra_core.training.data import (
    RealFaces,
    apply_tone,
    blur_detail,
    random_flow,
    random_offsets,
    random_patch_mask,
    random_tone,
    sample_codes,
)
from gra_core.training.losses import FaceEmbedder, ShiftTolerantLPIPS
from gra_core.training.report import save_grid
from gra_core.training.runtime import (
    AverageWeights,
    Clock,
    Process,
    average_gradients,
    broadcast_state,
    cosine_rate,
    load_compiled,
    load_optimizer,
    load_weights,
    save_compiled,
    save_optimizer,
    save_weights,
    start_process,
)

LOSS_WEIGHTS = {"mse": 1.0, "l1": 0.5, "lpips": 1.0, "identity": 0.3, "code": 0.5, "spread": 0.05}
"""`code`: distance to the known code of generated faces. `spread`: variance of a code over its 16 rows, which keeps
it near W, where edits work (e4e, Tov et al. 2021, section 4.1)."""


SAVE_EVERY = 500
"""Steps between two saves; a stream training that runs beside takes over each."""


def parser() -> argparse.ArgumentParser:
    """Options of `train encoder`."""
    options = argparse.ArgumentParser(prog="python -m gra_core train encoder", description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of aligned training photos")
    options.add_argument("--val", type=Path, help="folder of held-out photos")
    options.add_argument("--perceptual", type=Path, required=True, help="vgg_shift_tolerant.pth of stlpips-pytorch")
    options.add_argument("--face-net", type=Path, required=True, help="fr_feature.onnx of faceplugin")
    options.add_argument("--generator", type=Path, default=CHECKPOINT_DIR / "generator.safetensors")
    options.add_argument("--init", type=Path, help="encoder weights to go on from")
    options.add_argument("--variants", type=int, default=0, help="random edits of each photo to train on besides it")
    options.add_argument("--editor", type=Path, default=CHECKPOINT_DIR, help="weights that make the variants")
    options.add_argument("--out", type=Path, default=Path("runs/encoder"))
    options.add_argument("--minutes", type=float, default=10.0, help="of training, compilation included")
    options.add_argument("--regression-minutes", type=float, default=0.0, help="of them on known codes only")
    options.add_argument("--rounds", type=int, choices=(1, 2), default=2, help="2: half of each batch are corrections")
    options.add_argument("--batch", type=int, default=64, help="pictures per process and step")
    options.add_argument("--rate", type=float, default=4e-4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--no-compile", action="store_true")
    options.add_argument("--compile-cache", type=Path, help="file that keeps compiled kernels from run to run")
    options.add_argument("--save-optimizer", action="store_true")
    return options


class EncoderTraining:
    """Nets, data and one training step."""

    def __init__(self, args: argparse.Namespace, process: Process) -> None:
        self.process, device = process, process.device
        self.batch, self.rounds = args.batch, args.rounds
        self.generator = Generator().to(device).eval().requires_grad_(False)
        load_weights(self.generator, args.generator)
        self.encoder = Encoder().to(device).to(memory_format=torch.channels_last)
        if args.init:
            load_weights(self.encoder, args.init)
        broadcast_state(self.encoder, process)
        self.average = AverageWeights(self.encoder, Encoder().to(device).to(memory_format=torch.channels_last))
        self.perceptual = ShiftTolerantLPIPS(args.perceptual).to(device).to(memory_format=torch.channels_last)
        self.faces = FaceEmbedder(args.face_net).to(device)
        self.real = RealFaces(args.data, 2 * ENCODER_SIZE, device)
        if args.variants:
            add_variants(self.real, args)
        wrap = (lambda f: f) if args.no_compile else partial(torch.compile, dynamic=False)
        self.run_generator = wrap(lambda codes: to_encoder_size(self.generator(codes)))
        self.run_encoder = wrap(self.encoder)
        self.run_perceptual = wrap(self.perceptual)
        self.run_faces = wrap(self.faces)
        with torch.no_grad():
            self.base = broadcast_w(self.generator.mean_w[None])
            self.average_face = to_encoder_size(self.generator(self.base)).clamp(-1, 1)

    def photos(self, count: int) -> Tensor:
        """Augmented real photos (count, 3, 256, 256)."""
        device = self.process.device
        flow = random_flow(count, device, 0.6)
        photos = sample_at(self.real.sample(count), upscale_flow(flow, 4))
        photos = apply_tone(F.avg_pool2d(photos, 2), random_tone(count, device, 0.6))
        return blur_detail(photos, torch.rand(count, device=device) > 0.05)

    def generated(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Generated pictures, their codes, and whether the picture is still exactly that code's (count,)."""
        device = self.process.device
        codes = sample_codes(self.generator, count)
        clean = self.run_generator(codes).float().clamp(-1, 1)
        moved = sample_at(clean, upscale_flow(random_flow(count, device, 0.6), 2))
        changed = apply_tone(moved, random_tone(count, device, 0.6))
        mask = random_patch_mask(count, ENCODER_SIZE, device) * (torch.rand(count, 1, 1, 1, device=device) < 0.5)
        changed = torch.lerp(changed, self.photos(count), mask)
        exact = torch.rand(count, device=device) < 0.6
        return torch.where(exact[:, None, None, None], clean, changed), codes, exact

    def loss(self, regression_only: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh batch, starting at the average face, or half of it at the encoder's own estimate."""
        with torch.no_grad():
            half = self.batch // 2
            photo, known, exact = self.generated(half)
            if regression_only:
                more = self.generated(half)
                photo, known, exact = (torch.cat(pair) for pair in zip((photo, known, exact), more, strict=True))
            else:
                photo = torch.cat((photo, self.photos(half)))
            start, shown = self.base, self.average_face.expand_as(photo)
            if self.rounds == 2:
                second = torch.arange(self.batch, device=photo.device) % 2 == 1
                estimate = self.base + self.run_encoder(photo, shown).float()
                own = self.run_generator(estimate).float().clamp(-1, 1)
                start = torch.where(second[:, None, None], estimate, self.base)
                shown = torch.where(second[:, None, None, None], own, shown)
        codes = start + self.run_encoder(photo, shown).float()
        terms = {}
        error = F.smooth_l1_loss(codes[: len(known)], known, reduction="none", beta=0.2).mean((1, 2))
        terms["code"] = (error * exact).sum() / exact.sum().clamp_min(1)
        if not regression_only:
            picture = self.run_generator(codes).float()
            terms["mse"] = F.mse_loss(picture, photo)
            terms["l1"] = F.l1_loss(picture, photo)
            terms["lpips"] = self.run_perceptual(picture, photo).mean()
            with torch.no_grad():
                wanted = self.run_faces(photo)
            terms["identity"] = 1 - (self.run_faces(picture) * wanted).sum(1).mean()
            terms["spread"] = (codes - codes.mean(1, keepdim=True)).square().mean()
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms


@torch.no_grad()
def add_variants(faces: RealFaces, args: argparse.Namespace) -> None:
    """Add random edits of every photo, made with earlier weights: other faces with the texture of photos.

    There are few photos, and the encoder must not learn them by heart. Each process makes its own.
    """
    editor = PortraitEditor.from_pretrained(args.editor, faces.pictures.device)
    named = torch.stack([torch.from_numpy(edit.vector) for edit in editor.edits.values()]).to(editor.device)
    editing, generator = editor.streams.editing, editor.generator
    variants = []
    with torch.autocast(editor.device.type, torch.bfloat16):
        for batch in faces.pictures.split(8):
            photo = F.interpolate(batch.float() / 127.5 - 1, size=IMAGE_SIZE, mode="bilinear")
            codes, source = editor.invert_batch(photo)
            for _ in range(args.variants):
                edited = codes + random_offsets(generator, named, len(codes))
                picture = editing(generator, edited, source).picture.float()
                variants.append(F.avg_pool2d(picture, IMAGE_SIZE // batch.shape[-1]))
    faces.add(torch.cat(variants))


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes`, then save and report on the held-out photos."""
    process = start_process(args.seed)
    load_compiled(args.compile_cache)
    training = EncoderTraining(args, process)
    parameters = list(training.encoder.parameters())
    on_gpu = process.device.type == "cuda"
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=on_gpu)
    load_optimizer(optimizer, args.out / "optimizer.pt") if args.init else None
    process.log(f"{len(training.real.pictures)} photos and variants, {process.world} processes x {args.batch}")
    clock, step, mark = Clock(args.minutes), 0, 0.0
    progress = 0.0
    while progress < 1:
        if process.world == 1 or step % 10 == 0:
            progress = clock.agreed_progress(process)
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(args.rate, progress, step)
        regression_only = progress * args.minutes < args.regression_minutes
        with torch.autocast(process.device.type, torch.bfloat16, enabled=on_gpu):
            loss, terms = training.loss(regression_only)
        loss.backward()
        average_gradients(parameters, process)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        training.average.update()
        step += 1
        if step % 100 == 0 or step == 1:
            seconds = progress * args.minutes * 60
            values = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
            process.log(f"step {step} {seconds:.0f} s ({(seconds - mark) / 100:.3f} s/step) {values}")
            mark = seconds
        if process.leads and step % SAVE_EVERY == 0:
            save_weights(training.average.average, args.out / "encoder.safetensors", {"steps": str(step)})
    if process.leads:
        save_weights(training.average.average, args.out / "encoder.safetensors", {"steps": str(step)})
        save_compiled(args.compile_cache)
        if args.save_optimizer:
            save_optimizer(optimizer, args.out / "optimizer.pt")
        if args.val:
            report(training, args)


@torch.no_grad()
def report(training: EncoderTraining, args: argparse.Namespace) -> None:
    """Held-out figures of the averaged encoder, and a grid: photo, first estimate, corrected estimate."""
    photos = RealFaces(args.val, ENCODER_SIZE, training.process.device).pictures.float() / 127.5 - 1
    encoder = training.average.average
    rows, sums = [], torch.zeros(2, 3, device=photos.device)
    for batch in photos.split(8):
        first = training.base + encoder(batch, training.average_face.expand_as(batch))
        second = estimate_codes(encoder, training.generator, batch, training.generator.mean_w, training.average_face)
        wanted = training.faces(batch)
        pictures = [to_encoder_size(training.generator(codes)).clamp(-1, 1) for codes in (first, second)]
        for i, picture in enumerate(pictures):
            sums[i, 0] += F.mse_loss(picture, batch, reduction="none").mean((1, 2, 3)).sum()
            sums[i, 1] += training.perceptual(picture, batch).sum()
            sums[i, 2] += (1 - (training.faces(picture) * wanted).sum(1)).sum()
        rows.append(torch.stack((batch, *pictures), 1))
    for name, values in zip(("first", "corrected"), (sums / len(photos)).tolist(), strict=True):
        print(f"held-out {name}: mse {values[0]:.4f} st-lpips {values[1]:.4f} identity {values[2]:.4f}", flush=True)
    save_grid(torch.cat(rows)[:24], args.out / "encoder.jpg", columns=4)


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m gra_core train encoder`."""
    train(parser().parse_args(argv))


if __name__ == "__main__":
    main()
