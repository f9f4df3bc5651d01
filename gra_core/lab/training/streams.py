"""The training of both streams, together.

Generator and encoder are frozen. No edited photo with a label exists, so each batch mixes up to five kinds of pairs:

- exact: a generated face and the same face with its code moved along a direction; whatever is done to the first
  picture (another background, a colour cast, loss of sharpness) is done to the second, so that residuals have something
  to carry. What is held before the face, in the place of hats and hands, moves with the head. The label is right for
  any edit.
- returned: the residuals of an edited photo (`training.variants`), brought back to the photo itself. The source has
  the flaws of the weights that edited it; the label has none, for it is a photo.
- motion: the residuals of one frame of a clip, brought to the code of another (`training.motion`). This is what an edit
  should look like that moves a real face and all that it wears. What is behind is to stay.
- misaligned: the residuals of a warped photo, brought back to the photo itself. The warp is known, so the
  correspondence has a label as well (the paper's misalignment augmentation and aligner loss).
- free: an edit of a real photo. There is no label, but the person must change as much as, and where, the
  generator's own edit changes; what is behind must stay; and an adversary must take the picture for a photo.
"""

import math
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gra_core import checkpoints
from gra_core.checkpoints import CheckpointSource
from gra_core.constants import ENCODER_SIZE, IMAGE_SIZE, MAX_STRENGTH
from gra_core.directions.registry import load_directions, load_glasses_probe
from gra_core.errors import SettingsError
from gra_core.images import from_bytes
from gra_core.lab.training.adversary import Adversary, adversary_loss, realism_loss
from gra_core.lab.training.backgrounds import CERTAIN, Backgrounds, person_masks, set_before, unpacked
from gra_core.lab.training.data import (
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
from gra_core.lab.training.loop import Job, Training
from gra_core.lab.training.motion import Clips, MotionPairs
from gra_core.lab.training.report import save_grid
from gra_core.lab.training.runtime import load_weights
from gra_core.lab.training.variants import edited_photos
from gra_core.models.editing import AlignmentSource, Edit, EditingStream, changing
from gra_core.models.encoder import CodeEstimator, Encoder, to_encoder_size
from gra_core.models.generator import Generator
from gra_core.models.glasses import GlassesProbe, strengths_to_agree
from gra_core.models.maps import dilate, erode, upscale, upscale_flow, warp
from gra_core.models.streams import DESIGNS, Streams

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
    "features_l1": 2.0,
    "features_lpips": 2.0,
    "unedited_l1": 2.0,
    "unedited_lpips": 2.0,
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
"""`rec_*`: the Reconstruction Stream's picture. `edit_*`: the final picture of all pairs but free ones. `features_*`:
the same picture before the pixel residual. `unedited_*`: the Editing Stream's picture without an edit, before the pixel
residual. `*_detail*`: L1 and ST-LPIPS on a 256 px window at full size, not of clips, whose fine detail is compression.
`flow`: correspondence of misaligned pairs. `photometric`: source picture moved by the finest correspondence against the
target of exact, returned and motion pairs. Of free edits, `change` and `extent`: the person; `found`: what the encoder
finds of the edit; `free_identity`: who it is; `kept`: full size, what the generator's own edit leaves as it is;
`background`, `still`: picture, and correspondence (of motion pairs, too), where there is nobody; `realism`: the
adversary's opinion, whole at 256 px and in a window."""

KINDS = ("misaligned", "exact", "returned", "motion", "free")
"""Of pairs, in the order in which they stand in a batch."""
FREE_SHARE, MISALIGNED_SHARE, MOTION_SHARE = 0.25, 0.25, 0.375
RETURNED_SHARE, RETURNED_SHARE_WITH_MOTION = 0.25, 0.125
"""Of the pairs of a batch, with half as many misaligned ones if there are any returned or of motion; the rest are
exact."""
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
OUTLINE = 2
"""So many pixels of 256 within a person's outline may show what is behind."""

TINT = 0.1
"""Mean change of the background, in [-1, 1], from which on an edit is one of the light and not of the person."""

DETAIL_WINDOW = 256

Pair = tuple[str, Tensor, Tensor]
"""Name of a perceptual loss, picture and target, both (B, 3, 256, 256)."""

GENERATOR_CHUNK = 4
READ_CHUNK = 16
CHANGE_SIDE = 128
EXTENT_FIRST_SLICE = 2
"""Of the perceptual net: those before it see edges and skin, which a photo and the generator never share."""


class StreamTraining(Training):
    """Nets, data and losses of both streams."""

    name = "streams"

    def __init__(self, job: Job) -> None:
        design = DESIGNS[job.stage.design]
        super().__init__(job, partial(Streams, design))
        stage, directions = job.stage, job.parents / checkpoints.DIRECTIONS
        self.metadata = {"design": design.to_json()}
        self.counts = counts_of_kinds(stage.batch, variants=bool(stage.variants), motion=stage.motion)
        if self.counts["exact"] < 1:
            raise SettingsError(f"The batch of stage {stage.name} is too small for so many kinds of pairs.")
        self.spans = spans_of_kinds(self.counts)
        # Compiled, for the streams; what only draws pictures comes in other sizes, each of which would be compiled.
        self.traced = self.frozen(Generator(), checkpoints.GENERATOR)
        encoder = Encoder().to(self.device).eval().requires_grad_(False)
        load_weights(encoder, job.encoder)
        self.estimator = CodeEstimator(self.generator, encoder)
        candidates = [CheckpointSource(job.editor).load_streams()] if job.editor else []
        aligned = [x for x in (*candidates, self.average.module) if x.design.alignment != "none"]
        self.aligner = aligned[0].editing.to(self.device) if aligned else None
        self.named = NamedOffsets.of(load_directions(directions), self.device)
        self.glasses = GlassesProbe.of(load_glasses_probe(directions), self.device)
        self.real = RealFaces(job.data, "train", IMAGE_SIZE, self.device)
        self.variants = edited_photos(job.editor, self.real.pictures, stage.variants) if stage.variants else None
        self.clips = Clips(job.data, self.device) if stage.motion else None
        clips = len(self.clips.clips) if self.clips else 0
        self.process.log(f"{len(self.real.pictures)} photos, {stage.variants} edits of each, {clips} clips")
        self.backgrounds = Backgrounds(self.real, self.person)
        self.adversary = None
        if stage.adversary:
            channels = [convs[-1].out_channels for convs in self.perceptual.slices[1:]]
            self.adversary = Adversary(channels).to(self.device).to(memory_format=torch.channels_last)
            self.judge = self.process.parallel(self.adversary)
            parameters = self.adversary.parameters()
            self.adversary_optimizer = torch.optim.Adam(parameters, lr=ADVERSARY_RATE, betas=(0.0, 0.99))
        self.compile_parts(self.traced, self.module)
        self.run_perceptual = self.compile(self.perceptual)

    def trained(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """As of all trainings, and the adversary."""
        if self.adversary is None:
            return super().trained()
        return super().trained() | {"adversary": self.adversary, "adversary_optimizer": self.adversary_optimizer}

    def nets_in_parallel(self) -> tuple[nn.Module, ...]:
        """The adversary."""
        return () if self.adversary is None else (self.judge,)

    def after_step(self, step: int) -> None:
        """The adversary learns."""
        if self.adversary is not None:
            self.adversary_optimizer.step()
            self.adversary_optimizer.zero_grad(set_to_none=True)

    def run_generator(self, codes: Tensor) -> Tensor:
        """Pictures of codes, without gradient; in equal chunks, which take less memory."""
        return torch.cat([self.generator(chunk) for chunk in codes.split(GENERATOR_CHUNK)])

    def read(self, pictures: Tensor) -> Tensor:
        """The encoder's own codes of full-size pictures; gradients reach the pictures."""
        return self.estimator(to_encoder_size(pictures))

    def agreeing(self, codes: Tensor, pictures: Tensor) -> Tensor:
        """What to add to codes of full-size pictures for them to agree on glasses, (B, 16, 512)."""
        found = self.generator.small_picture(codes).float()
        strengths = strengths_to_agree(self.glasses, to_encoder_size(pictures), found)
        return strengths[:, None, None] / MAX_STRENGTH * self.named.glasses

    def edit(
        self, codes: Tensor, edited: Tensor, photo: Tensor, residuals: tuple[Tensor, ...]
    ) -> tuple[AlignmentSource, Edit]:
        """The Editing Stream without an edit, then on edited codes.

        With `recompute` the first run is repeated for the gradient, not kept in memory.
        """
        stream = self.module.editing
        if self.stage.recompute:
            found = checkpoint(partial(unedited, stream, self.traced), codes, photo, *residuals, use_reentrant=False)
        else:
            found = unedited(stream, self.traced, codes, photo, *residuals)
        image, pixels, *keys = found
        source = AlignmentSource(residuals, tuple(keys), image, pixels)
        return source, stream(self.traced, edited, source)

    @torch.no_grad()
    def exact_pairs(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Source and target pictures for offsets of codes, (B, 16, 512)."""
        count, device = len(offset), self.device
        truth = sample_codes(self.generator, count, mixed=0.3) + random_glasses(self.named, count, GLASSES_SHARE)
        both = self.run_generator(torch.cat((truth, truth + offset))).float().clamp(-1, 1)
        masks = person_masks(self.person, both)
        elsewhere = slice(math.ceil(BACKGROUND_SHARE * count))
        plates = self.backgrounds.sample(elsewhere.stop, IMAGE_SIZE)
        for pictures, persons in zip(both.chunk(2), masks.chunk(2), strict=True):
            pictures[elsewhere] = set_before(pictures[elsewhere], persons[elsewhere], plates)
        tone = [torch.cat((t, t)) for t in random_tone(count, device, 0.7)]
        toned = torch.rand(count, 1, 1, 1, device=device).lt(0.6).repeat(2, 1, 1, 1)
        both = torch.where(toned, apply_tone(both, tone), both)
        if self.aligner is not None:
            held, patch = self.held(count)
            motion = self.motion(truth, truth + offset, patch, masks[:count])
            moved, moved_patch = warp(torch.cat((held, patch), 1), motion).split([3, 1], 1)
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

        The editor's aligner finds that, else the average of the one in training; without either nothing is held.

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
        """One fresh batch, its kinds in the order of `KINDS`.

        `source` and `target` are pictures, targets of all pairs but free ones; `valid` is where targets are known,
        (P, 1, 256, 256). `codes` and `edited` are those of source and target. `flow` is the known flow of misaligned
        pairs, `still` where nothing moves in motion and free ones, (S, 1, 128, 128).

        Of free pairs, `person` and `behind` are where they show the person before and after the edit, and where
        neither does, (F, 1, 128, 128); `offset` is the edit and `read` what the encoder finds in their photos, (F, 16,
        512).
        """
        counts, spans, device = self.counts, self.spans, self.device
        exact = counts["exact"]
        offset = random_offsets(self.generator, self.named, exact + counts["free"])
        edits = torch.rand(len(offset), device=device) > UNEDITED_SHARE
        edits[exact:] = True
        exact_offset, free_offset = (offset * edits[:, None, None]).split([exact, counts["free"]])
        free, masks = self.real.sample_with(counts["free"], self.backgrounds.masks)
        photo, altered, flow = self.misaligned_pairs()
        pairs = {"misaligned": (altered, photo), "exact": self.exact_pairs(exact_offset)}
        pairs |= {"returned": self.returned_pairs(), "free": (free, free[:0])}
        moving = self.clips.sample(counts["motion"]) if self.clips else None
        pairs["motion"] = (moving.source, moving.target) if moving else (free[:0], free[:0])
        source, target = (torch.cat([pairs[kind][i] for kind in KINDS]) for i in (0, 1))

        read = torch.cat([self.read(chunk) for chunk in torch.cat((source, target)).split(READ_CHUNK)])
        agreeing = self.agreeing(read, torch.cat((source, target)))
        own, theirs = (read + agreeing).split([len(source), len(target)])
        theirs[spans["motion"]] -= agreeing[len(source) :][spans["motion"]] - agreeing[spans["motion"]]
        edited = torch.cat((theirs, own[spans["free"]] + free_offset))
        noise = LOW_RATE_NOISE * torch.rand(exact, 1, 1, device=device)
        noise = noise * (torch.rand(exact, 1, 1, device=device) < 0.7)
        own[spans["exact"]] = torch.lerp(own[spans["exact"]], own[spans["exact"]].roll(1, 0), noise)
        edited[spans["exact"]] = own[spans["exact"]] + exact_offset

        low_before, low_after = (self.run_generator(codes[spans["free"]]).float() for codes in (own, edited))
        before, after = unpacked(masks), person_masks(self.person, low_after.clamp(-1, 1))
        behind = F.avg_pool2d(nobody(before, after), 2)
        valid = torch.ones_like(target[:, :1, :ENCODER_SIZE, :ENCODER_SIZE])
        still = behind
        if moving:
            target[spans["motion"]], valid[spans["motion"]], standing = self.before_what_was_behind(moving)
            still = torch.cat((F.avg_pool2d(standing, 2), still))
        return {
            "source": source,
            "target": target,
            "valid": valid,
            "codes": own,
            "edited": edited,
            "flow": inverse_flow(flow),
            "still": still,
            "change": F.avg_pool2d(low_after - low_before, IMAGE_SIZE // CHANGE_SIDE),
            "offset": free_offset,
            "read": read[spans["free"]],
            "low_rate": torch.cat((low_before, low_after)).clamp(-1, 1),
            "person": F.avg_pool2d(before * after, 2),
            "behind": behind,
        }

    def before_what_was_behind(self, pairs: MotionPairs) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of motion pairs before what was behind the source, since an edit is to leave that as it is.

        What the camera shows behind a head moves with the square that the head is cut by.

        Returns:
            the targets, (B, 3, 1024, 1024);
            where they are known, which is not where the source shows somebody and the target nobody, 0 or 1, (B, 1,
            256, 256);
            where both show nobody, 0 or 1, likewise.
        """
        before, after = person_masks(self.person, torch.cat((pairs.source, pairs.target))).chunk(2)
        behind = nobody(before, after)
        shown = erode((after > CERTAIN).float(), OUTLINE)
        known = torch.maximum(behind, shown * pairs.valid)
        stays = F.interpolate(behind * pairs.apart, size=IMAGE_SIZE)
        targets = torch.where(stays > 0, pairs.source, pairs.target)
        return targets, torch.where(pairs.apart > 0, known, pairs.valid), behind

    def returned_pairs(self) -> tuple[Tensor, Tensor]:
        """Edits of photos, and the photos."""
        count = self.counts["returned"]
        if self.variants is None:
            return (self.real.sample(count),) * 2
        which = torch.randint(self.stage.variants, ()).item()
        photo, altered = self.real.sample_with(count, self.variants[:, which])
        return altered, photo

    def misaligned_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Photos, the same photos warped, and the flow (B, 2, 128, 128) by which they were."""
        count, device = self.counts["misaligned"], self.device
        photo = self.real.sample(count)
        photo = apply_tone(photo, random_tone(count, device, 0.4))
        still = torch.rand(count, 1, 1, 1, device=device) < 0.25
        flow = torch.where(still, 0.0, random_flow(count, device, 0.8, CHANGE_SIDE))
        return photo, warp(photo, upscale_flow(flow, IMAGE_SIZE // CHANGE_SIDE)), flow

    def compare(self, picture: Tensor, target: Tensor, name: str) -> tuple[dict[str, Tensor], list[Pair]]:
        """Losses of full-size pictures against their targets, and the pairs that the perceptual net is to compare.

        The detail window is at full size, the same for the whole batch, and not looked at in clips.
        """
        small, wanted = to_encoder_size(picture), to_encoder_size(target)
        window, wanted_window = (self.without_clips(x) for x in random_windows(picture, target))
        with torch.no_grad():
            identity = self.faces.embed(wanted)
        terms = {
            f"{name}_mse": F.mse_loss(small, wanted),
            f"{name}_l1": F.l1_loss(small, wanted),
            f"{name}_identity": 1 - (self.faces.embed(small) * identity).sum(1).mean(),
            f"{name}_detail": F.l1_loss(window, wanted_window),
        }
        return terms, [(f"{name}_lpips", small, wanted), (f"{name}_detail_lpips", window, wanted_window)]

    def without_clips(self, batch: Tensor) -> Tensor:
        """What belongs to all pairs of a batch but those of motion."""
        moving = self.spans["motion"]
        return torch.cat((batch[: moving.start], batch[moving.stop :]))

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh part of a batch."""
        batch = self.batch()
        state = self.module.reconstruction(self.traced, batch["codes"], batch["source"])
        source, edit = self.edit(batch["codes"], batch["edited"], batch["source"], state.residuals)
        final, plain, flows = edit.picture.float(), edit.before_pixels.float(), edit.flows
        paired, target = len(batch["target"]), batch["target"]
        # Where a target is made up there is nothing to learn.
        known = F.interpolate(batch["valid"], size=IMAGE_SIZE)
        terms, pairs = self.compare(state.image.float(), batch["source"], "rec")
        more_terms, more_pairs = self.compare(torch.where(known > 0, final[:paired], target), target, "edit")
        small, wanted = (to_encoder_size(x) for x in (torch.where(known > 0, plain[:paired], target), target))
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
            terms["realism"] = self.realism(free, self.real.sample(self.counts["free"]), step)
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    def correspondence(self, flows: dict[int, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Aligner losses: known flows, and what the finest flow makes of the sources of pairs that have no known one.

        Behind the person of free and of motion pairs nothing moves.
        """
        known, standing = self.spans["misaligned"], slice(self.spans["motion"].start, None)
        matched = slice(known.stop, len(batch["target"]))
        finest = max(flows)
        flow = upscale_flow(flows[finest][matched], ENCODER_SIZE // finest)
        difference = warp(to_encoder_size(batch["source"][matched]), flow) - to_encoder_size(batch["target"][matched])
        terms = dict.fromkeys(("flow", "still"), 0.0)
        for side, found in flows.items():
            factor = CHANGE_SIDE // side
            off = (found[known] - resized_flow(batch["flow"], side)).abs()
            terms["flow"] += off.mean() * 16 / side
            terms["still"] += weighted_mean(found[standing].abs(), F.avg_pool2d(batch["still"], factor)) * 16 / side
        return terms | {"photometric": weighted_mean(difference.abs(), batch["valid"][matched])}

    def realism(self, pictures: Tensor, photos: Tensor, step: int) -> Tensor:
        """The adversary's opinion of full-size pictures; it gets the gradients to learn from them and from photos."""
        views = torch.cat((to_encoder_size(pictures), *random_windows(pictures)))
        with torch.no_grad():
            views_of_photos = torch.cat((to_encoder_size(photos), *random_windows(photos)))
            real = [f.float() for f in self.perceptual.features(views_of_photos)]
        fake = [f.float() for f in self.perceptual.features(views)]
        both = self.judge([torch.cat((photo, f.detach())) for photo, f in zip(real, fake, strict=True)])
        scores_of_photos, scores = zip(*(score.split(len(views_of_photos)) for score in both), strict=True)
        (adversary_loss(scores_of_photos, scores) / len(self.own_parts)).backward()
        self.adversary.requires_grad_(False)
        opinion = realism_loss(self.adversary(fake))
        self.adversary.requires_grad_(True)
        return min(1.0, (step + 1) / ADVERSARY_WARMUP) * opinion

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
        photos = RealFaces(self.job.data, "val", IMAGE_SIZE, self.device).pictures
        generator, streams = self.generator, self.average.module
        sums, rows = torch.zeros(3, 3, device=photos.device), []
        for batch in photos.split(4):
            photo = from_bytes(batch)
            small = to_encoder_size(photo)
            codes = self.read(photo)
            codes = codes + self.agreeing(codes, photo)
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
        save_grid(torch.cat(rows), self.job.out / "streams.jpg")


def counts_of_kinds(batch: int, *, variants: bool, motion: bool) -> dict[str, int]:
    """Pairs of each kind in a batch, for a training with edits of photos, and with clips, or without."""
    shares = {"free": FREE_SHARE, "misaligned": MISALIGNED_SHARE / (2 if variants or motion else 1)}
    shares["returned"] = (RETURNED_SHARE_WITH_MOTION if motion else RETURNED_SHARE) if variants else 0.0
    counts = {kind: max(round(share * batch), 1) if share else 0 for kind, share in shares.items()}
    counts["motion"] = int(MOTION_SHARE * batch) if motion else 0
    return counts | {"exact": batch - sum(counts.values())}


def spans_of_kinds(counts: dict[str, int]) -> dict[str, slice]:
    """Where the pairs of each kind stand in a batch."""
    ends = list(accumulate(counts[kind] for kind in KINDS))
    return {kind: slice(end - counts[kind], end) for kind, end in zip(KINDS, ends, strict=True)}


def nobody(before: Tensor, after: Tensor) -> Tensor:
    """Where neither of two masks of persons (B, 1, 256, 256) shows anybody, nor near it, 0 or 1."""
    return 1 - dilate(torch.maximum(before, after) > CERTAIN, BACKGROUND_MARGIN)


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
