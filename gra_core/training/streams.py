"""Train both streams together: `python -m gra_core train streams --data DIR ...`, alone or under `torchrun`.

Generator and encoder are frozen. No edited photo with a label exists, so each batch mixes three kinds of pairs:

- exact: a generated face and the same face with its code moved along a direction; whatever is done to the first
  picture (colour cast, something held before the face, loss of sharpness) is done to the second, so that residuals
  have something to carry. The label is right for any edit.
- misaligned: the residuals of a warped photo, brought back to the photo itself. The warp is known, so the
  correspondence has a label as well (the paper's misalignment augmentation and aligner loss).
- free: an edit of a real photo. There is no label, but the picture must change as much as, and where, the
  generator's own edit changes.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from gra_core.constants import CHECKPOINT_DIR, IMAGE_SIZE
from gra_core.models.editing import Edit, sample_at, upscale_flow
from gra_core.models.encoder import Encoder, estimate_codes, to_encoder_size
from gra_core.models.generator import Generator, broadcast_w
from gra_core.models.layers import STAGES
from gra_core.models.reconstruction import SourceResiduals
from gra_core.models.streams import Streams
from gra_core.training.data import (
    RealFaces,
    apply_tone,
    blur_detail,
    inverse_flow,
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

LOSS_WEIGHTS = {
    "rec_mse": 1.0,
    "rec_l1": 0.5,
    "rec_lpips": 1.0,
    "rec_identity": 0.2,
    "rec_detail": 0.5,
    "rec_detail_lpips": 0.5,
    "edit_mse": 1.0,
    "edit_l1": 0.5,
    "edit_lpips": 1.0,
    "edit_identity": 0.2,
    "edit_detail": 0.5,
    "edit_detail_lpips": 0.5,
    "features_l1": 0.5,
    "features_lpips": 0.5,
    "flow": 0.1,
    "photometric": 0.2,
    "change": 1.0,
}
"""`rec_*`: the Reconstruction Stream's picture before the pixel residual. `edit_*`: the final picture of exact and
misaligned pairs. `features_*`: the same picture before the pixel residual. `*_detail*`: L1 and ST-LPIPS on a 256 px
window at full size. `flow`: correspondence of misaligned pairs. `photometric`: source picture moved by the finest
correspondence against the target of exact pairs. `change`: free edits."""

SHARES = {"exact": 0.5, "misaligned": 0.25, "free": 0.25}
LOW_RATE_NOISE = 0.35
"""Codes of generated faces are moved up to this share of the way to another face's code, since the encoder is better
on generated faces than on photos."""

DETAIL_WINDOW = 256

Pair = tuple[str, Tensor, Tensor]
"""Name of a perceptual loss, picture and target, both (B, 3, 256, 256)."""

GENERATOR_CHUNK = 4
CHANGE_SIDE = 128


def parser() -> argparse.ArgumentParser:
    """Options of `train streams`."""
    options = argparse.ArgumentParser(prog="python -m gra_core train streams", description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of aligned training photos")
    options.add_argument("--val", type=Path, help="folder of held-out photos")
    options.add_argument("--perceptual", type=Path, required=True, help="vgg_shift_tolerant.pth of stlpips-pytorch")
    options.add_argument("--face-net", type=Path, required=True, help="fr_feature.onnx of faceplugin")
    options.add_argument("--generator", type=Path, default=CHECKPOINT_DIR / "generator.safetensors")
    options.add_argument("--encoder", type=Path, default=CHECKPOINT_DIR / "encoder.safetensors")
    options.add_argument("--directions", type=Path, default=CHECKPOINT_DIR / "directions.safetensors")
    options.add_argument("--init", type=Path, help="stream weights to go on from")
    options.add_argument("--out", type=Path, default=Path("runs/streams"))
    options.add_argument("--minutes", type=float, default=10.0, help="of training, compilation included")
    options.add_argument("--batch", type=int, default=16, help="pictures per process and step, a multiple of 4")
    options.add_argument("--rate", type=float, default=4e-4)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--no-compile", action="store_true")
    options.add_argument("--compile-cache", type=Path, help="file that keeps compiled kernels from run to run")
    options.add_argument("--save-optimizer", action="store_true")
    return options


class StreamTraining:
    """Nets, data and one training step."""

    def __init__(self, args: argparse.Namespace, process: Process) -> None:
        self.process, device = process, process.device
        self.counts = {kind: round(share * args.batch) for kind, share in SHARES.items()}
        self.generator = Generator().to(device).eval().requires_grad_(False)
        load_weights(self.generator, args.generator)
        self.encoder = Encoder().to(device).eval().requires_grad_(False)
        self.encoder_file, self.encoder_time = args.encoder, 0.0
        self.follow_encoder()
        self.named = load_file(args.directions)["vectors"].float().to(device)
        self.streams = Streams().to(device)
        if args.init:
            load_weights(self.streams, args.init)
        broadcast_state(self.streams, process)
        self.average = AverageWeights(self.streams, Streams().to(device))
        self.perceptual = ShiftTolerantLPIPS(args.perceptual).to(device).to(memory_format=torch.channels_last)
        self.faces = FaceEmbedder(args.face_net).to(device)
        self.real = RealFaces(args.data, IMAGE_SIZE, device)
        wrap = (lambda f: f) if args.no_compile else partial(torch.compile, dynamic=False)
        self.generate_chunk = wrap(self.generator)
        self.run_reconstruction = wrap(lambda codes, photo: self.streams.reconstruction(self.generator, codes, photo))
        self.run_editing = wrap(partial(self.edit, self.streams))
        self.run_perceptual = wrap(self.perceptual)
        with torch.no_grad():
            self.average_face = to_encoder_size(self.generator(broadcast_w(self.generator.mean_w[None]))).clamp(-1, 1)

    def follow_encoder(self) -> None:
        """Load the encoder's weights if the file is new, so that both trainings can run side by side."""
        changed = self.encoder_file.stat().st_mtime
        if changed != self.encoder_time:
            load_weights(self.encoder, self.encoder_file)
            self.encoder_time = changed

    def run_generator(self, codes: Tensor) -> Tensor:
        """Pictures of codes, without gradient; in equal chunks, so that one compiled form serves all."""
        return torch.cat([self.generate_chunk(chunk) for chunk in codes.split(GENERATOR_CHUNK)])

    def codes(self, photos: Tensor) -> Tensor:
        """The frozen encoder's codes of full-size pictures."""
        small = to_encoder_size(photos)
        return estimate_codes(self.encoder, self.run_generator, small, self.generator.mean_w, self.average_face).float()

    def edit(self, streams: Streams, codes: Tensor, source: SourceResiduals) -> Edit:
        """The Editing Stream on edited codes, straight from the Reconstruction Stream's findings."""
        return streams.editing(self.generator, codes, streams.editing.prepare(source))

    @torch.no_grad()
    def exact_pairs(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source and target pictures, source codes and edited codes."""
        device = self.process.device
        truth, offset = (
            sample_codes(self.generator, count, mixed=0.3),
            random_offsets(self.generator, self.named, count),
        )
        offset = offset * (torch.rand(count, 1, 1, device=device) > 0.1)
        both = self.run_generator(torch.cat((truth, truth + offset))).float().clamp(-1, 1)
        tone = [torch.cat((t, t)) for t in random_tone(count, device, 0.7)]
        toned = torch.rand(count, 1, 1, 1, device=device).lt(0.6).repeat(2, 1, 1, 1)
        both = torch.where(toned, apply_tone(both, tone), both)
        mask = random_patch_mask(count, IMAGE_SIZE, device) * (torch.rand(count, 1, 1, 1, device=device) < 0.4)
        held = self.real.sample(count).roll(1, 0)
        both = torch.lerp(both, torch.cat((held, held)), torch.cat((mask, mask)))
        both = blur_detail(both, (torch.rand(count, device=device) > 0.1).repeat(2))
        source, target = both.chunk(2)
        codes = self.codes(source)
        noise = LOW_RATE_NOISE * torch.rand(count, 1, 1, device=device) * (torch.rand(count, 1, 1, device=device) < 0.7)
        codes = torch.lerp(codes, codes.roll(1, 0), noise)
        return source, target, codes, codes + offset

    @torch.no_grad()
    def batch(self) -> dict[str, Tensor]:
        """One fresh batch: exact, then misaligned, then free pairs."""
        device = self.process.device
        source, target, codes, edited = self.exact_pairs(self.counts["exact"])
        count = self.counts["misaligned"]
        photo = self.real.sample(count)
        photo = apply_tone(photo, random_tone(count, device, 0.4))
        still = torch.rand(count, 1, 1, 1, device=device) < 0.25
        flow = torch.where(still, 0.0, random_flow(count, device, 0.8))
        warped = sample_at(photo, upscale_flow(flow, IMAGE_SIZE // flow.shape[-1]))
        free = self.real.sample(self.counts["free"])
        free_offset = random_offsets(self.generator, self.named, len(free))
        real_codes = self.codes(torch.cat((warped, free, photo)))
        warped_codes, free_codes, photo_codes = real_codes.split([count, len(free), count])
        low_before, low_after = self.run_generator(torch.cat((free_codes, free_codes + free_offset))).float().chunk(2)
        return {
            "source": torch.cat((source, warped, free)),
            "target": torch.cat((target, photo)),
            "codes": torch.cat((codes, warped_codes, free_codes)),
            "edited": torch.cat((edited, photo_codes, free_codes + free_offset)),
            "flow": inverse_flow(flow),
            "change": low_after - low_before,
        }

    def compare(self, picture: Tensor, target: Tensor, name: str) -> tuple[dict[str, Tensor], list[Pair]]:
        """Losses of a full-size picture against its target, and the pairs that the perceptual net is to compare.

        The detail window is a random one at full size, the same for the whole batch.
        """
        small, wanted = to_encoder_size(picture), to_encoder_size(target)
        corner = torch.randint(128, IMAGE_SIZE - 128 - DETAIL_WINDOW, (2,)).tolist()
        rows, columns = (slice(c, c + DETAIL_WINDOW) for c in corner)
        window, wanted_window = (x[:, :, rows, columns] for x in (picture, target))
        with torch.no_grad():
            identity = self.faces(wanted)
        terms = {
            f"{name}_mse": F.mse_loss(small, wanted),
            f"{name}_l1": F.l1_loss(small, wanted),
            f"{name}_identity": 1 - (self.faces(small) * identity).sum(1).mean(),
            f"{name}_detail": F.l1_loss(window, wanted_window),
        }
        return terms, [(f"{name}_lpips", small, wanted), (f"{name}_detail_lpips", window, wanted_window)]

    def loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh batch."""
        batch = self.batch()
        state = self.run_reconstruction(batch["codes"], batch["source"])
        edit = self.run_editing(batch["edited"], state)
        final, plain, flows = edit.picture.float(), edit.before_pixels.float(), edit.flows
        exact, paired = self.counts["exact"], len(batch["target"])
        terms, pairs = self.compare(state.image.float(), batch["source"], "rec")
        more_terms, more_pairs = self.compare(final[:paired], batch["target"], "edit")
        small, wanted = to_encoder_size(plain[:paired]), to_encoder_size(batch["target"])
        terms |= more_terms | {"features_l1": F.l1_loss(small, wanted)}
        pairs += [*more_pairs, ("features_lpips", small, wanted)]
        names, mine, theirs = zip(*pairs, strict=True)
        distances = self.run_perceptual(torch.cat(mine), torch.cat(theirs)).split([len(x) for x in mine])
        terms |= {name: distance.mean() for name, distance in zip(names, distances, strict=True)}
        terms["flow"] = sum(
            (flows[side][exact:paired] - side / 128 * F.avg_pool2d(batch["flow"], 128 // side)).abs().mean() * 16 / side
            for side in STAGES
        )
        moved = sample_at(to_encoder_size(batch["source"][:exact]), upscale_flow(flows[STAGES[-1]][:exact], 2))
        terms["photometric"] = (moved - to_encoder_size(batch["target"][:exact])).abs().mean()
        terms["change"] = self.change(final[paired:] - batch["source"][paired:], batch["change"])
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    def change(self, mine: Tensor, wanted: Tensor) -> Tensor:
        """How far the change of a picture is from the generator's own change, at 128 and 32 px."""
        mine, wanted = (F.avg_pool2d(x, IMAGE_SIZE // CHANGE_SIDE) for x in (mine, wanted))
        return F.l1_loss(mine, wanted) + F.l1_loss(F.avg_pool2d(mine, 4), F.avg_pool2d(wanted, 4))


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes`, then save and report on the held-out photos."""
    process = start_process(args.seed)
    load_compiled(args.compile_cache)
    training = StreamTraining(args, process)
    parameters = list(training.streams.parameters())
    on_gpu = process.device.type == "cuda"
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=on_gpu)
    load_optimizer(optimizer, args.out / "optimizer.pt") if args.init else None
    process.log(f"{len(training.real)} photos, {process.world} processes x {args.batch}")
    clock, step, mark = Clock(args.minutes), 0, 0.0
    progress = 0.0
    while progress < 1:
        if process.world == 1 or step % 10 == 0:
            progress = clock.agreed_progress(process)
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(args.rate, progress, step)
        with torch.autocast(process.device.type, torch.bfloat16, enabled=on_gpu):
            loss, terms = training.loss()
        loss.backward()
        average_gradients(parameters, process)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step() if torch.isfinite(norm) else None
        optimizer.zero_grad(set_to_none=True)
        training.average.update()
        step += 1
        if step % 100 == 0 or step == 1:
            seconds = progress * args.minutes * 60
            values = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
            process.log(f"step {step} {seconds:.0f} s ({(seconds - mark) / 100:.3f} s/step) {values}")
            mark = seconds
            training.follow_encoder()
    if process.leads:
        save_weights(training.average.average, args.out / "streams.safetensors", {"steps": str(step)})
        save_compiled(args.compile_cache)
        if args.save_optimizer:
            save_optimizer(optimizer, args.out / "optimizer.pt")
        if args.val:
            report(training, args)


@torch.no_grad()
def report(training: StreamTraining, args: argparse.Namespace) -> None:
    """Held-out figures of the averaged streams and a grid.

    Columns: photo, low-rate code, Reconstruction Stream, no edit; then for the first named directions at +60 the
    low-rate edit and the Editing Stream's.
    """
    photos = RealFaces(args.val, IMAGE_SIZE, training.process.device).pictures
    generator, streams = training.generator, training.average.average
    sums, rows = torch.zeros(3, 4, device=photos.device), []
    for batch in photos.split(4):
        photo = batch.float() / 127.5 - 1
        small = to_encoder_size(photo)
        wanted = training.faces(small)
        codes = estimate_codes(training.encoder, generator, small, generator.mean_w, training.average_face)
        source = streams.reconstruction(generator, codes, photo)
        unedited = training.edit(streams, codes, source).picture
        pictures = [to_encoder_size(x.clamp(-1, 1)) for x in (generator(codes), source.image, unedited)]
        for i, picture in enumerate(pictures):
            sums[i, 0] += F.mse_loss(picture, small, reduction="none").mean((1, 2, 3)).sum()
            sums[i, 1] += training.perceptual(picture, small).sum()
            sums[i, 2] += (1 - (training.faces(picture) * wanted).sum(1)).sum()
        sums[2, 3] += F.mse_loss(unedited.clamp(-1, 1), photo, reduction="none").mean((1, 2, 3)).sum()
        if len(rows) < 6:
            for offset in 0.6 * training.named[:4]:
                pictures.append(to_encoder_size(generator(codes + offset)))
                pictures.append(to_encoder_size(training.edit(streams, codes + offset, source).picture))
            rows.append(torch.stack((small, *pictures), 1))
    for name, values in zip(("low-rate", "rec stream", "no edit"), (sums / len(photos)).tolist(), strict=True):
        print(
            f"held-out {name}: mse {values[0]:.5f} st-lpips {values[1]:.4f} identity {values[2]:.4f}"
            f" full-size mse {values[3]:.5f}",
            flush=True,
        )
    save_grid(torch.cat(rows), args.out / "streams.jpg")


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m gra_core train streams`."""
    train(parser().parse_args(argv))


if __name__ == "__main__":
    main()
