"""All texts of the page."""

from __future__ import annotations

import re

TITLE = "Portrait Editor"
INTRODUCTION = "Change a smile, an age, a turn of the head. Everything else stays as it is."

CHOOSE = "Choose a photo with a face that looks more or less towards the camera."
FINDING = "Finding the face"
INVERTING = "Rebuilding every detail"
READY = "Ready: move a slider. Drag the line in the picture to compare."
WAITING = "The sliders are set. Choose a photo, and it is edited like that."
EXPIRED = "Your photo is no longer here: the page was idle for long, or restarted. Please upload the photo again."
GONE = "A file is no longer here: the page was idle for long, or restarted. Please upload it again."
NO_ROOM = "There is no room for more files here. Close what you no longer need, or try again in a few minutes."
TOO_LARGE = "This is more than can be sent at once."
NO_UPLOAD = "The file could not be taken in. Give it a name and try again."
NEXT = "Another photo is being worked on; yours is next, in {time}."
IN_LINE = "{count} other photos are being worked on; yours comes after them, in {time}."
SEAT = "All places are taken at the moment. You are number {seat} in line; your turn comes in {time}."
BUSY = "Too many people are here at the moment. Please try again in {time}."
UNEXPECTED = "Something went wrong here. Please try again, or choose another photo."
SEVERAL = "{count} faces found: choose one below the picture, then move a slider."
ANIMATING = "Making the animation: picture {done} of {total}"
ANIMATED = "The animation is ready."
LINK = "The link holds the slider settings, never the photo. It was copied where your browser allows it."
LOADED = "Settings loaded: {settings}."
UNKNOWN = " Not known here: {names}."
DOWNLOAD = "Download"
UNCHANGED = "Nothing is changed yet."
FIRST = "Most wanted"

ALSO_CALLED = {
    "smile": "happy laugh grin sad",
    "age": "old young wrinkles child",
    "yaw": "pose rotate profile",
    "glasses": "spectacles eyewear",
    "gender": "man woman male female",
    "mouth_open": "lips teeth",
    "eyes_open": "wide awake sleepy",
    "brow_height": "eyebrows surprised",
    "brow_slope": "eyebrows angry sad",
    "pitch": "nod look up down pose",
    "face_width": "slim thin fat chubby",
    "lipstick": "makeup make-up",
    "skin_light": "pale tan tanned",
    "warmth": "colour color temperature",
    "hair_light": "blond blonde brunette dark colour color",
    "fringe": "bangs",
    "beard": "moustache mustache stubble shave",
    "eyelids": "closed shut blink sleep",
    "jaw_drop": "chin",
    "brow_lift": "eyebrows surprised",
    "gaze": "eyes look direction",
    "nose_width": "broad slim",
    "light_side": "shadow lighting",
    "tint": "colour color cast",
}
"""Words by which people look for an edit, beside those of its label and hint."""

OWN = """
A direction file for StyleGAN2-FFHQ (`.npy`, `.pt`, `.safetensors`) or a StyleCLIP mapper becomes a slider. Only you see
it, until you close the page.
"""
NEUTRAL = "a face"
DESCRIBE = """
The first time, this downloads the network CLIP (600 MB) to the computer that runs the page; then each description takes
about ten seconds. Some descriptions work better than others.
"""
READING = "Reading {name}"
ADDED = "“{label}” is a slider now, under Your own edits."
DESCRIBING = "Looking for “{target}”. This takes some ten seconds, and longer the first time"
REMOVED = "The slider was removed."

PRIVACY = """
The photo is processed by the computer that runs this page and is sent nowhere else. It lies where nobody else can
find it. The file that you upload is read and deleted within seconds; the photo is then held in memory, with a few
temporary pictures on disk for your browser to show. They are deleted when you close the page or choose another photo,
at the latest about an hour after you last used the page. So are the files that you choose under Batch and Compare,
and what is made of them. If the program is ended by force, what it had on disk is deleted when it next starts.
Nothing is used for training, and no statistics are collected. Links and settings files hold slider positions only.
Edits of your own are forgotten when you close the page.

What you download is in sRGB, whatever the colours of the photo: wide colours and HDR are brought into it. Transparency
comes back with the whole photo as PNG or WebP; JPEG has white in its place. The file carries a note in its metadata
that it was edited by AI (PNG text, XMP, the IPTC digital source type), and nothing of the original's metadata, such as
place and time.
"""
LICENCE = """
The program is open source (Apache-2.0). The generator's weights are distilled from StyleGAN2-FFHQ, whose weights and
data are for **non-commercial** use, and the face landmark model was trained on iBUG 300-W, which is **not for
commercial use** either: that holds for the pictures made here too. Edit only photos that you may use, and say that a
picture is edited when others could take it for real.
"""

BATCH = """
Edit many photos alike: set the sliders in the tab *Edit*, then drop photos or a zip here. In each photo the largest
face is edited. A photo that cannot be edited is listed; the others go on.
"""
BATCH_NOTHING = "All sliders are at 0. Set them in the tab Edit first, or the photos come back as they are."
BATCH_WAITING = "Waiting for its turn"
BATCH_FAILURES = "Not edited:"
BATCH_NOTES = "Edited, but:"
BATCH_EMPTY = "Choose photos, a folder or a zip first."

COMPARE = """
For reviewers: one edit by several methods side by side, with the residuals and correspondences of each stage. Both
"not aligned" columns are **ablations of the same weights**, which were trained with alignment and all stages: they show
what these weights do without it, not how well a model trained that way would do. Without a photo here, the face that is
open in the tab *Edit* is taken.
"""
COMPARE_NOTE = """
Figures compare each picture with the input at 256 px (identity: dlib's face descriptor, below 0.6 the same person). An
edit has to change something, so lower is not always better; at strength 0 they measure the reconstruction.
"""
COMPARE_STAGES = (
    "What each stage of GRA does: the residual where it was found in the photo, where alignment puts it, and where "
    "each place takes it from (hue: direction, depth of colour: distance)"
)
COMPARE_EMPTY = "Choose one or more photos first, or open one in the tab Edit."
COMPARE_MANY = "Only the first {count} photos were compared."
ALL_SLIDERS = "All sliders, as they stand in the tab Edit"
NO_LPIPS = "LPIPS is left out: its weights are not at hand."


def hint(text: str) -> str:
    """A hint of an edit as a slider has it: what + and - do is what happens to the right and to the left."""
    if sides := re.fullmatch(r"\+ (.+), - (.+?)\.?", text):
        return "Right: {}. Left: {}.".format(*sides.groups())
    return text.replace("+ ", "Right: ", 1) if text.startswith("+ ") else text


def in_line(others: int, seat: int, seconds: float) -> str:
    """Text for somebody who waits; the arguments are those of `admission.Standing`."""
    time = about(seconds)
    if seat:
        return SEAT.format(seat=seat, time=time)
    return NEXT.format(time=time) if others == 1 else IN_LINE.format(count=others, time=time)


def busy(seconds: float) -> str:
    """Text for somebody who has to come again."""
    return BUSY.format(time=about(max(seconds, 10)))


def about(seconds: float) -> str:
    """A time that is an estimate."""
    if seconds < 90:
        return f"about {max(5 * round(seconds / 5), 5)} seconds"
    return f"about {round(seconds / 60)} minutes"
