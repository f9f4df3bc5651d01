"""The command line: `gra-portrait {edit,batch,app,evaluate,benchmark,train,directions}`, or `python -m gra_core ...`.

Everything that the user got wrong ends in one line on stderr and exit code 2. What can be checked without
PyTorch is checked before it is imported, so that such a line appears at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from gra_core import __version__
from gra_core.errors import GRAError, MissingPackageError, NoFaceError, StrengthError

if TYPE_CHECKING:
    import PIL.Image

    from gra_core.alignment import AlignedFace, Face
    from gra_core.directions.registry import EditDirection
    from gra_core.editor import PortraitEditor
    from gra_core.images import Photo

PROGRAM = "gra-portrait"
"""Name of the installed command."""
STREAM = Path("-")
"""In place of a file: standard input or output."""

LAB_COMMANDS = {
    "evaluate": ("evaluation.command", "measure quality on a folder of portraits"),
    "benchmark": ("benchmark", "measure speed and memory"),
}
"""Commands whose options the lab knows: their modules in `gra_core.lab`, and what they are for."""

TRAIN_ACTIONS = {"prepare": "prepare", "all": "pipeline"}
"""What `train` does: modules of `gra_core.lab.training`."""

EXIT_SOME_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 after a mistake of the user's (one line on stderr), 130 after Ctrl-C.
    """
    args = parse(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # file names may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = args.run(args) or 0
        sys.stdout.flush()  # a closed pipe shows itself here and not at interpreter exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("gra_core: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (GRAError, OSError) as error:
        print(f"gra_core: error: {_sentence(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return code


def _sentence(error: Exception) -> str:
    """One line to print for an error that the user can mend."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}."
    return " ".join(str(error).split())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command with its options; those of `LAB_COMMANDS` as they are, in `rest`."""
    if argv and argv[0] in LAB_COMMANDS:
        return argparse.Namespace(run=run_lab, module=LAB_COMMANDS[argv[0]][0], rest=list(argv[1:]))
    return build_parser().parse_args(argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the parsed namespace's `run` is the command's function."""
    installed = Path(sys.argv[0]).stem == PROGRAM
    parser = Parser(
        prog=PROGRAM if installed else "python -m gra_core", description="Edit portraits: smile, age, pose and more."
    )
    parser.add_argument("--version", action="version", version=f"gra_core {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    edit = commands.add_parser("edit", help="edit one photo", description="Edit one face in a photo.")
    edit.add_argument("photo", type=Path, metavar="PHOTO", help="a file, or - for standard input")
    edit.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an edit and its strength, e.g. smile=60"
    )
    edit.add_argument(
        "--direction",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="an edit of your own, named after its file: .npy, .pt or .safetensors",
    )
    edit.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".png, .jpg or .webp, or - for standard output"
    )
    edit.add_argument("--format", choices=["png", "jpg", "webp"], help="of the result on standard output (png)")
    edit.add_argument("--paste-back", action="store_true", help="write the whole photo, not only the face")
    edit.add_argument("--face", type=count, default=1, metavar="N", help="which face, 1 being the largest (1)")
    edit.add_argument("--aligned", action="store_true", help="PHOTO is an aligned square face crop already")
    add_model_options(edit)
    edit.set_defaults(run=run_edit)

    batch = commands.add_parser(
        "batch", help="edit many photos alike", description="Edit the largest face in each photo of a folder or zip."
    )
    batch.add_argument("source", type=Path, metavar="IN", help="a folder, a zip or a photo")
    batch.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as of edit")
    batch.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a .zip to write, or a folder")
    batch.add_argument("--paste-back", action="store_true", help="write whole photos, not only the faces")
    batch.add_argument("--format", choices=["png", "jpg", "webp"], default="png", help="of the results (png)")
    add_model_options(batch)
    batch.set_defaults(run=run_batch)

    app = commands.add_parser("app", help="start the page", description="Start the page, until Ctrl+C.")
    app.add_argument("--host", metavar="NAME", help="address to listen on (127.0.0.1: this computer only)")
    app.add_argument("--port", type=count, metavar="N", help="port (7860)")
    app.set_defaults(run=run_app)

    for name, (_, purpose) in LAB_COMMANDS.items():
        commands.add_parser(name, help=purpose)

    train = commands.add_parser("train", help="make the weights by a recipe, or prepare pictures for it")
    train.add_argument("action", choices=list(TRAIN_ACTIONS))
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of that action; try --help")
    train.set_defaults(run=run_train)

    directions = commands.add_parser("directions", help="list, fit, search or check the edit directions")
    directions.add_argument("action", choices=["list", "fit", "search", "correct", "calibrate", "check"])
    directions.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the others than list")
    directions.set_defaults(run=run_directions)
    return parser


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text in front."""

    def error(self, message: str) -> NoReturn:
        """End the program with the message."""
        self.exit(EXIT_USER_ERROR, f"gra_core: error: {message} (see {self.prog} --help)\n")


def run_edit(args: argparse.Namespace) -> None:
    """`edit`: photo in, edited face or photo out."""
    if args.aligned and (args.paste_back or args.face != 1):
        raise GRAError("--aligned takes a single face crop: it goes with neither --paste-back nor --face.")
    from gra_core.export import FORMATS, check_size, describe

    suffix = f".{args.format or 'png'}" if args.output == STREAM else args.output.suffix
    if args.output == STREAM:
        if sys.stdout.isatty():
            raise GRAError("A terminal cannot show a picture: send it to a file or a program, or give -o FILE.")
    elif args.format:
        raise GRAError("--format goes with -o -: a file's name says its format.")
    else:
        check_output(args.output, FORMATS)
    registry = load_registry(args.checkpoints)
    own = load_own_directions(args.direction, registry)
    strengths = parse_strengths(args.set, registry | own)

    from gra_core.compositing import draw_result
    from gra_core.images import read_photo

    photo = read_photo(sys.stdin.buffer if args.photo == STREAM else args.photo)
    if args.paste_back:
        check_size(photo.image.size, suffix)
    photo, faces, aligned = _find_face(photo, args)
    editor = load_editor(args)
    editor.edits |= own
    output = editor.render(editor.invert(aligned.image), strengths)
    result = draw_result(photo, aligned, output, faces, whole_photo=args.paste_back)
    for note in photo.notes:
        print(f"gra_core: note: {note}", file=sys.stderr)
    about = describe(strengths, registry | own)
    if args.output == STREAM:
        stream_image(result, suffix, about)
        return
    write_image(result, args.output, about)
    print(f"Wrote {args.output} ({result.width} x {result.height})")


def _find_face(photo: Photo, args: argparse.Namespace) -> tuple[Photo, list[Face], AlignedFace]:
    """The photo, turned if need be; its faces; and the one to edit."""
    from gra_core.alignment import AlignedFace, FaceAligner

    if args.aligned:
        width, height = photo.image.size
        if width != height:
            raise GRAError(f"An aligned face crop is square; {args.photo} is {width} x {height}.")
        return photo, [], AlignedFace.of_crop(photo.image)
    aligner = FaceAligner()
    photo, faces = aligner.find(photo)
    if args.face > len(faces):
        found = "1 face was found" if len(faces) == 1 else f"{len(faces)} faces were found"
        raise NoFaceError(f"There is no face {args.face}: {found}, and --face counts from 1, the largest.")
    return photo, faces, aligner.align(photo.image, faces[args.face - 1])


def run_batch(args: argparse.Namespace) -> int:
    """`batch`: many photos in, a folder or zip out; 1 when some could not be edited, 2 when none could."""
    to_zip = args.output.suffix.lower() == ".zip"
    if to_zip:
        check_output(args.output, {".zip"})
    strengths = parse_strengths(args.set, load_registry(args.checkpoints))

    from gra_core.alignment import FaceAligner
    from gra_core.batch import LEFT_OUT, FolderSink, ZipSink, check_apart, edit_batch, list_items

    check_apart([args.source], args.output)
    items = list_items([args.source])
    for name in items.left_out:
        print(f"{name}: {LEFT_OUT}", file=sys.stderr)
    editor = load_editor(args)
    failed = 0
    with (ZipSink if to_zip else FolderSink)(args.output) as sink:
        options = {"whole_photo": args.paste_back, "suffix": f".{args.format}"}
        for outcome in edit_batch(editor, FaceAligner(), items, strengths, sink, **options):
            failed += outcome.error is not None
            said = outcome.error or " ".join(("done", *outcome.notes))
            print(f"[{outcome.done}/{outcome.total}] {outcome.name}: {said}", file=sys.stderr)
    print(f"Wrote {len(items) - failed} of {len(items)} photos to {args.output}")
    return 0 if not failed else EXIT_USER_ERROR if failed == len(items) else EXIT_SOME_FAILED


def run_app(args: argparse.Namespace) -> None:
    """`app`: the page, until it is interrupted."""
    for variable, value in (("GRADIO_SERVER_NAME", args.host), ("GRADIO_SERVER_PORT", args.port)):
        if value is not None:
            os.environ[variable] = str(value)
    from gra_core.ui import temp_dir

    temp_dir.claim()  # before Gradio is imported
    from gra_core.ui.page import build_page, launch_options

    page = build_page()
    page.launch(**launch_options(page))


def lab(name: str) -> ModuleType:
    """A module of the lab, by its name in it. Raises MissingPackageError."""
    try:
        return import_module(f"gra_core.lab.{name}")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"This command needs the package {error.name}: pip install gra-portrait-editor[lab]"
        ) from error


def run_lab(args: argparse.Namespace) -> int | None:
    """A command of the lab, which is loaded for nothing else: hands its options over."""
    return lab(args.module).main(args.rest)


def run_train(args: argparse.Namespace) -> int | None:
    """`train prepare|all`: hands the remaining options to the lab."""
    return lab(f"training.{TRAIN_ACTIONS[args.action]}").main(args.rest)


def run_directions(args: argparse.Namespace) -> int | None:
    """`directions list`: a table of the edits; the other actions hand their options to the lab."""
    if args.action != "list":
        return lab("directions.fit").main([args.action, *args.rest])
    if args.rest:
        raise GRAError("directions list takes no options.")
    _print_table(load_registry().values())
    return 0


def load_registry(source: str | None = None) -> dict[str, EditDirection]:
    """The edit directions by name. Where their small file is at hand, PyTorch is not needed. Raises CheckpointError."""
    from gra_core.directions.registry import DIRECTIONS_FILE, load_directions

    path = Path(source) / DIRECTIONS_FILE.name if source else DIRECTIONS_FILE
    if not path.is_file():
        from gra_core.checkpoints import CheckpointSource

        path = CheckpointSource(source).path(DIRECTIONS_FILE.name)
    return load_directions(path)


def load_own_directions(files: Sequence[Path], directions: Mapping[str, EditDirection]) -> dict[str, EditDirection]:
    """Edits from the user's own direction files, by name.

    Raises:
        GRAError: a file cannot be used, or its name is that of another edit in `directions` or `files`.
    """
    from gra_core.directions.importers import import_direction

    own: dict[str, EditDirection] = {}
    for file in files:
        edit = import_direction(file)
        if edit.key in directions or edit.key in own:
            raise GRAError(f"There is an edit named '{edit.key}' already: rename {file.name}.")
        own[edit.key] = edit
    return own


def parse_strengths(pairs: Sequence[str], directions: Mapping[str, EditDirection]) -> dict[str, float]:
    """Read `--set` values.

    Args:
        pairs: items like "smile=60".
        directions: the registry that names and ranges are checked against.

    Returns:
        Strengths by edit name.

    Raises:
        StrengthError: an item is not NAME=NUMBER, a name comes twice, or a number lies outside its slider's range.
        UnknownEditError: no edit has the name.
    """
    from gra_core.directions.registry import edit_offset

    texts: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise StrengthError(f"--set takes NAME=VALUE, such as smile=60; got '{pair}'.")
        if name in texts:
            raise StrengthError(f"'{name}' is set twice.")
        texts[name] = text
    edit_offset(directions, texts)
    return {name: float(text) for name, text in texts.items()}


def check_output(path: Path, suffixes: Sequence[str] | Mapping[str, object] | set[str]) -> None:
    """Fail early when `path` has none of `suffixes`, or when its folder cannot be written to.

    Raises:
        GRAError: the suffix is not among `suffixes`, or `path` is a folder.
        OSError: the folder does not exist or is not writable.
    """
    if path.suffix.lower() not in suffixes:
        raise GRAError(f"The output must end in {' or '.join(suffixes)}; got '{path}'.")
    if path.is_dir():
        raise GRAError(f"{path} is a folder, not a file to write.")
    with _replacing(path, keep=False):
        pass


def write_image(image: PIL.Image.Image, path: Path, note: str = "") -> None:
    """Write a picture in the format of `path`'s suffix, marked as edited (`note`), whole or not at all."""
    from gra_core.export import save_picture

    with _replacing(path) as temporary:
        save_picture(image, temporary, path.suffix, note)


def stream_image(image: PIL.Image.Image, suffix: str, note: str = "") -> None:
    """Write a picture to standard output, in the format of `suffix`, marked as edited (`note`)."""
    from gra_core.export import save_picture

    content = io.BytesIO()  # pipes cannot seek, as formats want to
    save_picture(image, content, suffix, note)
    sys.stdout.buffer.write(content.getvalue())


def write_json(report: Mapping[str, object], path: Path) -> None:
    """Write a report, whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _replacing(path: Path, keep: bool = True) -> Iterator[Path]:
    """A fresh file beside `path` that takes its place when the block ends well (and `keep`), else vanishes."""
    path = path.resolve()  # through a link, the file that it points to is replaced
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OSError(f"Cannot write {path}: {error.strerror}.") from error
    try:
        yield temporary
        if keep:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_editor(args: argparse.Namespace) -> PortraitEditor:
    """The editor that `--checkpoints` and `--device` ask for. Raises CheckpointError; GRAError for a missing device."""
    import torch

    from gra_core.editor import PortraitEditor

    if args.device is not None:
        try:
            torch.empty(1, device=args.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise GRAError(f"The device '{args.device}' cannot be used here; try --device cpu.") from error
    return PortraitEditor.from_pretrained(args.checkpoints, device=args.device)


def _print_table(edits: Sequence[EditDirection]) -> None:
    rows = [("NAME", "RANGE", "LABEL", "GROUP", "HINT")]
    rows += [(e.key, f"{e.minimum:g} to {e.maximum:g}", e.label, e.group, e.hint) for e in edits]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[4]]).rstrip())


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--checkpoints` and `--device`."""
    parser.add_argument(
        "--checkpoints", metavar="DIR", help="folder or Hub repository of the weights (default: checkpoints/)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one)")


def count(text: str, smallest: int = 1) -> int:
    """A whole number from `smallest`, for argparse."""
    number = int(text)
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be {smallest} or more, not {text}")
    return number


def count_or_none(text: str) -> int:
    """A whole number from 0, for argparse."""
    return count(text, smallest=0)


count.__name__ = count_or_none.__name__ = "number"  # argparse: "invalid number value: 'x'"
