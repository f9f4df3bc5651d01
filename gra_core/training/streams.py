"""Train both streams together: `python -m gra_core train streams --data DIR ...`, alone or under `torchrun`.

Generator, encoder and refiner are frozen. No edited photo with a label exists, so each batch mixes up to four kinds
of pairs:

- exact: a generated face and the same face with its code moved along a direction; whatever is done to the first
  picture (another background, a colour cast, loss of sharpness) is done to the second, so that residuals have something
  to carry. What is held before the face, in the place of hats and hands, moves with the head. The label is right for
  any edit.
- returned: the residuals of an edited photo (`training.variants`), brought back to the photo itself. The source has
  the flaws of the weights that edited it; the label has none, for it is a photo.
- misaligned: the residuals of a warped photo, brought back to the photo itself. The warp is known, so the
  correspondence has a label as well (the paper's misalignment augmentation and aligner loss).
- free: an edit of a real photo. There is no label, but the person must change as much as, and where, the
  generator's own edit changes; what is behind must stay; and an adversary must take the picture for a photo.
"""

import argparse
import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gra_core.checkpoints import CheckpointSource
from gra_core.constants import CHECKPOINT_DIR, ENCODER_SIZE, IMAGE_SIZE, MAX_STRENGTH
from gra_core.directions.registry import load_directions, load_glasses_probe
from gra_core.images import from_bytes
from gra_core.models.editing import AlignmentSource, Edit, EditingStream, changing
from gra_core.models.encoder import Encoder, to_encoder_size
from gra_core.models.generator import Generator
from gra_core.models.glasses import GlassesProbe, strengths_to_agree
from gra_core.models.maps import sample_at, upscale, upscale_flow, widened
from gra_core.models.refiner import CodeEstimator, Refiner
from gra_core.models.streams import DESIGNS, Streams
from gra_core.training.adversary import Adversary, adversary_loss, realism_loss
from gra_core.training.backgrounds import CERTAIN, Backgrounds, person_masks, set_before, unpacked
from gra_core.training.data import (
    NamedOffsets,
    RealFaces,
    affine_motion,
    apply_tone,
    blur_detail,
    inverse_flow,
    random_flow,
    random_glasses,
    random_offsets,
    random_patch_mask,
    random_tone,
    sample_codes,
)
from gra_core.training.loop import Training, training_options
from gra_core.training.report import save_grid
from gra_core.training.runtime import average_gradients, broadcast_state, load_weights
from gra_core.training.variants import add_variant_options, edited_photos

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
    "unedited_l1": 0.5,
    "unedited_lpips": 0.5,
    "flow": 0.1,
    "photometric": 0.2,
    "change": 1.0,
    "extent": 0.5,
    "found": 3.0,
    "kept": 1.0,
    "free_identity": 0.4,
    "background": 0.5,
    "still": 0.1,
    "realism": 0.05,
}
"""`rec_*`: the Reconstruction Stream's picture. `edit_*`: the final picture of exact and misaligned pairs.
`features_*`: the same picture before the pixel residual. `unedited_*`: the Editing Stream's picture without an edit,
before the pixel residual. `*_detail*`: L1 and ST-LPIPS on a 256 px window at full size. `flow`: correspondence of
misaligned pairs. `photometric`: source picture moved by the finest correspondence against the target of exact and
returned pairs. Of free edits, `change` and `extent`: the person; `found`: what the encoder finds of the edit;
`free_identity`: who it is; `kept`: full size, what the generator's own edit leaves as it is; `background`, `still`:
picture and correspondence where there is nobody; `realism`: the adversary's opinion, whole at 256 px and in a
window."""

SHARES = {"returned": 0.0, "misaligned": 0.25, "free": 0.25}
SHARES_WITH_VARIANTS = {"returned": 0.25, "misaligned": 0.125, "free": 0.25}
"""Of the pairs of a batch; the rest are exact."""
LOW_RATE_NOISE = 0.5
"""Codes of generated faces are moved up to this share of the way to another face's code, since the encoder is better
on generated faces than on photos."""

ADVERSARY_RATE = 4e-4
ADVERSARY_WARMUP = 500
"""Steps over which the adversary's opinion comes to count."""

GLASSES_SHARE = 0.2
"""Of the exact pairs, those given glasses: frames that break on a turned head show at once."""

BACKGROUND_SHARE = 2 / 3
"""Of the exact pairs, those set before another background."""

UNEDITED_SHARE = 0.1
"""Of the exact pairs, those that no edit sets apart."""

PATCH_SHARE = 0.5
"""Of the exact pairs, those with something held before them."""
HELD_NEAREST = 0.15
"""Least distance of its middle from the picture's, as a share of the side."""

BACKGROUND_MARGIN = 5
"""So many pixels of 256 around a person do not count as background."""

TINT = 0.1
"""Mean change of the background, in [-1, 1], from which on an edit is one of the light and not of the person."""

DETAIL_WINDOW = 256

Pair = tuple[str, Tensor, Tensor]
"""Name of a perceptual loss, picture and target, both (B, 3, 256, 256)."""

GENERATOR_CHUNK = 4
CHANGE_SIDE = 128
EXTENT_FIRST_SLICE = 2
"""Of the perceptual net: those before it see edges and skin, which a photo and the generator never share."""


def parser() -> argparse.ArgumentParser:
    """Options of `train streams`."""
    options = training_options("streams", __doc__, batch=16, seed=1)
    options.add_argument("--encoder", type=Path, default=CHECKPOINT_DIR / "encoder.safetensors")
    options.add_argument("--refiner", type=Path, default=CHECKPOINT_DIR / "refiner.safetensors")
    options.add_argument("--design", choices=DESIGNS, default="gra", help="others are what the method is compared with")
    options.add_argument("--adversary", action="store_true", help="edits must pass for photos, too")
    add_variant_options(options)
    options.add_argument("--directions", type=Path, default=CHECKPOINT_DIR / "directions.safetensors")
    return options


class StreamTraining(Training):
    """Nets, data and losses of both streams."""

    name = "streams"

    def __init__(self, args: argparse.Namespace) -> None:
        design = DESIGNS[args.design]
        super().__init__(args, partial(Streams, design))
        self.metadata = {"design": design.to_json()}
        shares = SHARES_WITH_VARIANTS if args.variants else SHARES
        self.counts = {kind: math.ceil(share * args.batch) for kind, share in shares.items()}
        self.counts["exact"] = args.batch - sum(self.counts.values())
        encoder, refiner = (net.to(self.device).eval().requires_grad_(False) for net in (Encoder(), Refiner()))
        self.estimator = CodeEstimator(self.generator, encoder, refiner)
        self.loaded = {}
        self.refresh()
        # Not the streams in training: those of other designs find no correspondence.
        self.aligner = CheckpointSource(args.editor).load_streams().editing.to(self.device)
        self.named = NamedOffsets.of(load_directions(args.directions), self.device)
        self.glasses = GlassesProbe.of(load_glasses_probe(args.directions), self.device)
        self.real = RealFaces(args.data, IMAGE_SIZE, self.device)
        self.variants = edited_photos(args.editor, self.real.pictures, args.variants) if args.variants else None
        self.process.log(f"{len(self.real)} photos, {args.variants} edits of each")
        self.backgrounds = Backgrounds(self.real, self.person)
        self.adversary = Adversary().to(self.device).to(memory_format=torch.channels_last) if args.adversary else None
        if self.adversary is not None:
            broadcast_state(self.adversary, self.process)
            parameters = self.adversary.parameters()
            self.adversary_optimizer = torch.optim.Adam(parameters, lr=ADVERSARY_RATE, betas=(0.0, 0.99))
            self.run_features = self.compile(self.perceptual.features)
            self.realism_calls = 0
        streams, generator = self.module, self.generator
        self.generate_chunk = self.compile(generator)
        self.run_reconstruction = self.compile(lambda codes, photo: streams.reconstruction(generator, codes, photo))
        # Apart, because what compiling takes grows faster than what is compiled.
        self.run_unedited = self.compile(partial(unedited, streams.editing, generator))
        self.run_editing = self.compile(partial(streams.editing, generator))
        self.run_perceptual = self.compile(self.perceptual)
        self.estimator.total_distance = self.compile(self.estimator.total_distance)

    def refresh(self) -> None:
        """Load the weights of encoder and refiner if their files are new: their trainings can run beside this one."""
        for net, path in ((self.estimator.encoder, self.args.encoder), (self.estimator.refiner, self.args.refiner)):
            changed = path.stat().st_mtime
            if changed != self.loaded.get(path):
                load_weights(net, path)
                self.loaded[path] = changed

    def run_generator(self, codes: Tensor) -> Tensor:
        """Pictures of codes, without gradient; in equal chunks, so that one compiled form serves all."""
        return torch.cat([self.generate_chunk(chunk) for chunk in codes.split(GENERATOR_CHUNK)])

    def read(self, pictures: Tensor) -> Tensor:
        """The encoder's own codes of full-size pictures; gradients reach the pictures."""
        encoder = self.estimator.encoder
        return encoder.latent_space(self.estimator.latents(to_encoder_size(pictures))).float()

    def estimate(self, pictures: Tensor) -> Tensor:
        """Codes of full-size pictures from which the editor's edits start, in agreement on glasses."""
        small = to_encoder_size(pictures)
        _, codes, preview = (found.float() for found in self.estimator.estimate(small))
        strengths = strengths_to_agree(self.glasses, small, preview)
        glasses = strengths[:, None, None] / MAX_STRENGTH * self.named.glasses
        return codes + glasses

    def edit(
        self, codes: Tensor, edited: Tensor, photo: Tensor, residuals: tuple[Tensor, ...]
    ) -> tuple[AlignmentSource, Edit]:
        """The Editing Stream without an edit, then on edited codes.

        The first run is repeated for the gradient, not kept in memory, of which three runs at full size take too much.
        """
        image, pixels, *keys = checkpoint(self.run_unedited, codes, photo, *residuals, use_reentrant=False)
        source = AlignmentSource(residuals, tuple(keys), image, pixels)
        return source, self.run_editing(edited, source)

    @torch.no_grad()
    def exact_pairs(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Source and target pictures for offsets of codes, (B, 16, 512)."""
        count, device = len(offset), self.device
        truth = sample_codes(self.generator, count, mixed=0.3) + random_glasses(self.named, count, GLASSES_SHARE)
        both = self.run_generator(torch.cat((truth, truth + offset))).float().clamp(-1, 1)
        masks = person_masks(self.person, both)
        elsewhere = torch.arange(count, device=device).lt(BACKGROUND_SHARE * count).repeat(2)
        plates = self.backgrounds.sample(int(elsewhere.sum()) // 2, IMAGE_SIZE)
        both[elsewhere] = set_before(both[elsewhere], masks[elsewhere], torch.cat((plates, plates)))
        tone = [torch.cat((t, t)) for t in random_tone(count, device, 0.7)]
        toned = torch.rand(count, 1, 1, 1, device=device).lt(0.6).repeat(2, 1, 1, 1)
        both = torch.where(toned, apply_tone(both, tone), both)
        held, patch = self.held(count)
        motion = self.motion(truth, truth + offset, patch, masks[:count])
        moved, moved_patch = sample_at(torch.cat((held, patch), 1), motion).split([3, 1], 1)
        both = torch.lerp(both, torch.cat((held, moved)), torch.cat((patch, moved_patch)))
        both = blur_detail(both, (torch.rand(count, device=device) > 0.1).repeat(2))
        return both.chunk(2)

    def held(self, count: int) -> tuple[Tensor, Tensor]:
        """What is held before faces, (count, 3, 1024, 1024), and where, (count, 1, 1024, 1024): parts of photos.

        Half of them upside down, so that there is cloth where hats are.
        """
        overturned, shown = (torch.rand(count, 1, 1, 1, device=self.device) < share for share in (0.5, PATCH_SHARE))
        photo = self.real.sample(count)
        patch = random_patch_mask(count, IMAGE_SIZE, self.device, HELD_NEAREST)
        return torch.where(overturned, photo.flip(2), photo), patch * shown

    def motion(self, before: Tensor, after: Tensor, patch: Tensor, person: Tensor) -> Tensor:
        """How something stiff moves that is held before a person, by what moves behind it; behind nobody not at all.

        Args:
            before: codes of the person, (B, 16, 512).
            after: edited codes.
            patch: where it is held, (B, 1, 1024, 1024).
            person: where there is somebody, (B, 1, 256, 256).

        Returns:
            flow (B, 2, 1024, 1024): source position minus own, in pixels.
        """
        flow = self.aligner.correspondence(self.generator, before, after)
        factor = IMAGE_SIZE // flow.shape[-1]
        weight = F.avg_pool2d(patch, factor) * F.avg_pool2d(person, person.shape[-1] // flow.shape[-1])
        return upscale_flow(affine_motion(flow, weight), factor)

    @torch.no_grad()
    def batch(self) -> dict[str, Tensor]:
        """One fresh batch: exact, then returned, misaligned and free pairs.

        Of free pairs, `person` and `behind` are where they show the person before and after the edit, and where
        neither does, (F, 1, 128, 128); `offset` is the edit and `read` what the encoder finds in their photos, (F, 16,
        512).
        """
        exact, count = self.counts["exact"], self.counts["exact"] + self.counts["free"]
        offset = random_offsets(self.generator, self.named, count)
        edits = torch.rand(count, device=self.device) > UNEDITED_SHARE
        edits[exact:] = True
        offset = offset * edits[:, None, None]
        exact_offset, free_offset = offset.split([exact, count - exact])
        source, target = self.exact_pairs(exact_offset)
        photo, altered, flow = (
            torch.cat(pair) for pair in zip(self.returned_pairs(), self.misaligned_pairs(), strict=True)
        )
        free, masks = self.real.sample_with(self.counts["free"], self.backgrounds.masks)
        seen = torch.cat((source, free, altered, photo))
        own, altered_codes, photo_codes = self.estimate(seen).split([count, *[len(photo)] * 2])
        low_before, low_after = self.run_generator(torch.cat((own[exact:], own[exact:] + free_offset))).float().chunk(2)
        noise = LOW_RATE_NOISE * torch.rand(exact, 1, 1, device=own.device)
        noise = noise * (torch.rand(exact, 1, 1, device=own.device) < 0.7)
        own = torch.cat((torch.lerp(own[:exact], own[:exact].roll(1, 0), noise), own[exact:]))
        edited = own + offset
        before, after = unpacked(masks), person_masks(self.person, low_after.clamp(-1, 1))
        nobody = 1 - widened(torch.maximum(before, after) > CERTAIN, BACKGROUND_MARGIN)
        return {
            "source": torch.cat((source, altered, free)),
            "target": torch.cat((target, photo)),
            "codes": torch.cat((own[:exact], altered_codes, own[exact:])),
            "edited": torch.cat((edited[:exact], photo_codes, edited[exact:])),
            "flow": inverse_flow(flow[self.counts["returned"] :]),
            "change": F.avg_pool2d(low_after - low_before, IMAGE_SIZE // CHANGE_SIDE),
            "offset": free_offset,
            "read": self.read(free),
            "low_rate": torch.cat((low_before, low_after)).clamp(-1, 1),
            "person": F.avg_pool2d(before * after, 2),
            "behind": F.avg_pool2d(nobody, 2),
        }

    def returned_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `misaligned_pairs`: the photo is found again in an edit of it; the flow is not known."""
        count = self.counts["returned"]
        if self.variants is None:
            photo = altered = self.real.sample(count)
        else:
            which = torch.randint(self.args.variants, ()).item()
            photo, altered = self.real.sample_with(count, self.variants[:, which])
        return photo, altered, photo.new_zeros(count, 2, CHANGE_SIDE, CHANGE_SIDE)

    def misaligned_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Photos, the same photos warped, and the flow (B, 2, 128, 128) by which they were."""
        count, device = self.counts["misaligned"], self.device
        photo = self.real.sample(count)
        photo = apply_tone(photo, random_tone(count, device, 0.4))
        still = torch.rand(count, 1, 1, 1, device=device) < 0.25
        flow = torch.where(still, 0.0, random_flow(count, device, 0.8, CHANGE_SIDE))
        return photo, sample_at(photo, upscale_flow(flow, IMAGE_SIZE // CHANGE_SIDE)), flow

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
        source, edit = self.edit(batch["codes"], batch["edited"], batch["source"], state.residuals)
        final, plain, flows = edit.picture.float(), edit.before_pixels.float(), edit.flows
        paired = len(batch["target"])
        terms, pairs = self.compare(state.image.float(), batch["source"], "rec")
        more_terms, more_pairs = self.compare(final[:paired], batch["target"], "edit")
        small, wanted = to_encoder_size(plain[:paired]), to_encoder_size(batch["target"])
        terms |= more_terms | {"features_l1": F.l1_loss(small, wanted)}
        unedited, photo = source.image.float(), to_encoder_size(batch["source"])
        terms["unedited_l1"] = F.l1_loss(unedited, photo)
        pairs += [*more_pairs, ("features_lpips", small, wanted), ("unedited_lpips", unedited, photo)]
        names, mine, theirs = zip(*pairs, strict=True)
        distances = self.run_perceptual(torch.cat(mine), torch.cat(theirs)).split([len(x) for x in mine])
        terms |= {name: distance.mean() for name, distance in zip(names, distances, strict=True)}
        if self.module.design.alignment != "none":
            terms |= self.correspondence(flows, batch)
        free, before = final[paired:], batch["source"][paired:]
        terms |= self.change(free - before, batch)
        with torch.no_grad():
            identity = self.faces.embed(to_encoder_size(before))
        terms["free_identity"] = 1 - (self.faces.embed(to_encoder_size(free)) * identity).sum(1).mean()
        low_before, low_after = batch["low_rate"].chunk(2)
        terms["kept"] = kept(free - before, low_after - low_before)
        person = upscale(batch["person"], IMAGE_SIZE // CHANGE_SIDE)
        terms["extent"] = self.extent(*map(to_encoder_size, (free, before, low_before, low_after, person)))
        terms["found"] = self.found(free, low_before, low_after, batch)
        if self.adversary is not None:
            terms["realism"] = self.realism(free, self.real.sample(self.counts["free"]))
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    def correspondence(self, flows: dict[int, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Aligner losses: the known flow of misaligned pairs, what the finest flow makes of the others, and stillness.

        Behind the person of free pairs nothing moves.
        """
        matched = self.counts["exact"] + self.counts["returned"]
        paired = len(batch["target"])
        finest = max(flows)
        flow = upscale_flow(flows[finest][:matched], ENCODER_SIZE // finest)
        moved = sample_at(to_encoder_size(batch["source"][:matched]), flow)
        return {
            "flow": sum(
                (found[matched:paired] - resized_flow(batch["flow"], side)).abs().mean() * 16 / side
                for side, found in flows.items()
            ),
            "photometric": (moved - to_encoder_size(batch["target"][:matched])).abs().mean(),
            "still": sum(
                weighted_mean(found[paired:].abs() * 16 / side, F.avg_pool2d(batch["behind"], CHANGE_SIDE // side))
                for side, found in flows.items()
            ),
        }

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

    def change(self, mine: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How far the change of pictures (F, 3, 1024, 1024) is from what it should be, at 128 and 32 px.

        The person should change as in the generator's own edit; what is behind, not at all, unless the edit is one
        of the light: then evenly.
        """
        mine, wanted = F.avg_pool2d(mine, IMAGE_SIZE // CHANGE_SIDE), batch["change"]
        person, behind = batch["person"], batch["behind"]
        small = F.avg_pool2d(person, 4)
        coarse = F.avg_pool2d(person * (mine - wanted), 4).abs() / small.clamp_min(0.1)
        tint = (wanted * behind).sum((2, 3), keepdim=True) / behind.sum((2, 3), keepdim=True).clamp_min(1)
        tint = torch.where(tint.abs() > TINT, tint, 0.0)
        return {
            "change": weighted_mean((mine - wanted).abs(), person) + weighted_mean(coarse, small),
            "background": weighted_mean((mine - tint).abs(), behind),
        }

    def extent(self, mine: Tensor, photo: Tensor, low_before: Tensor, low_after: Tensor, person: Tensor) -> Tensor:
        """How far edits fall short of what the generator's own edit does to perceptual features of the person.

        Only the part along the generator's change counts, so that a photo need not become the generator's picture. Of
        several edits the larger count for more. It is what tells a half smile from a whole one, and an old face from a
        grey-haired one.

        Args:
            mine: edits of photos, (F, 3, 256, 256).
            photo: the photos.
            low_before: the generator's pictures of them.
            low_after: its edits of those.
            person: where those show a person, (F, 1, 256, 256).
        """
        features = self.perceptual.features
        with torch.no_grad():
            before = [f.float() for f in features(photo)]
            low = [f.float() for f in features(torch.cat((low_before, low_after)))]
        shortfalls = []
        for own, source, pair in list(zip(features(mine), before, low, strict=True))[EXTENT_FIRST_SLICE:]:
            wanted = pair[len(mine) :] - pair[: len(mine)]
            wanted = wanted * F.adaptive_avg_pool2d(person, wanted.shape[-2:])
            reached, whole = ((wanted * x).sum((1, 2, 3)) for x in (own.float() - source, wanted))
            shortfalls.append(F.relu(whole - reached).sum() / whole.sum().clamp_min(1e-6))
        return torch.stack(shortfalls).mean()

    def found(self, mine: Tensor, low_before: Tensor, low_after: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much less of an edit the encoder finds in edits of photos than in the generator's own.

        The encoder reads who is shown, how old and in what mood, with no regard to where it shows; what it finds is
        the part of its codes' change along the edit, as a share of the edit.

        Args:
            mine: edits of photos, (F, 3, 1024, 1024).
            low_before: the generator's pictures of them.
            low_after: its edits of those.
            batch: of free pairs, `offset`, the edit, and `read`, what the encoder finds in the photos.
        """
        offset = batch["offset"]
        with torch.no_grad():
            before, after = self.read(torch.cat((low_before, low_after))).chunk(2)
        reached = self.read(mine.clamp(-1, 1)) - batch["read"]
        whole, reached = ((x * offset).sum((1, 2)) for x in (after - before, reached))
        shortfall = F.relu(whole - reached)
        return (shortfall / offset.square().sum((1, 2)).clamp_min(1e-6)).mean()

    @torch.no_grad()
    def report(self) -> None:
        """Held-out figures of the averaged streams and a grid.

        Columns: photo, low-rate code, Reconstruction Stream, Editing Stream without edit and pixels; then for the
        first named directions at +60 the low-rate edit and the Editing Stream's.
        """
        photos = RealFaces(self.args.val, IMAGE_SIZE, self.device).pictures
        generator, streams = self.generator, self.average.average
        sums, rows = torch.zeros(3, 3, device=photos.device), []
        for batch in photos.split(4):
            photo = from_bytes(batch)
            small = to_encoder_size(photo)
            codes = self.estimate(photo)
            found = streams.reconstruction(generator, codes, photo)
            source = streams.editing.prepare(generator, codes, photo, found.residuals)
            pictures = [to_encoder_size(x.clamp(-1, 1)) for x in (generator(codes), found.image)] + [source.image]
            sums += torch.stack([self.distances(picture, small) for picture in pictures])
            if len(rows) < 6:
                for offset in 0.6 * self.named.offsets[:4]:
                    pictures.append(to_encoder_size(generator(codes + offset)))
                    pictures.append(to_encoder_size(streams.editing(generator, codes + offset, source).picture))
                rows.append(torch.stack((small, *pictures), 1))
        names = ("low-rate", "rec stream", "unedited, before the pixels")
        for name, values in zip(names, (sums / len(photos)).tolist(), strict=True):
            print(f"held-out {name}: mse {values[0]:.5f} st-lpips {values[1]:.4f} identity {values[2]:.4f}", flush=True)
        save_grid(torch.cat(rows), self.args.out / "streams.jpg")


def unedited(
    stream: EditingStream, generator: Generator, codes: Tensor, photo: Tensor, *residuals: Tensor
) -> tuple[Tensor, ...]:
    """`EditingStream.prepare` as tensors: picture at 256 px, pixel residual, keys of each stage."""
    source = stream.prepare(generator, codes, photo, residuals)
    return source.image, source.pixels, *source.keys


def kept(mine: Tensor, wanted: Tensor) -> Tensor:
    """Mean change of full-size pictures (F, 3, 1024, 1024) where the generator's own edit, `wanted`, changes nothing.

    What asks edits to go further (`extent`) would else exchange hair and skin for the generator's everywhere.
    """
    still = 1 - upscale(changing(to_encoder_size(wanted)), IMAGE_SIZE // ENCODER_SIZE)
    return weighted_mean(mine.abs(), still)


def weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of x (B, C, H, W) over what weight (B, 1, H, W) marks; 0 if it marks nothing."""
    return (x * weight).sum() / (x.shape[1] * weight.sum()).clamp_min(1)


def resized_flow(flow: Tensor, side: int) -> Tensor:
    """A flow at a coarser stage, in its positions."""
    factor = flow.shape[-1] // side
    return F.avg_pool2d(flow, factor) / factor


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
