"""The command line: `python -m gra_core {edit,batch,evaluate,benchmark,train,directions}`.

Everything that the user got wrong ends in one line on stderr and exit code 2. What can be checked without
PyTorch is checked before it is imported, so that such a line appears at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gra_core import __version__
from gra_core.errors import GRAError, NoFaceError, StrengthError

if TYPE_CHECKING:
    import PIL.Image

    from gra_core.directions.registry import EditDirection
    from gra_core.editor import PortraitEditor

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
    args = build_parser().parse_args(argv)
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
    """What to print of an error that the user can mend, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}."
    return " ".join(str(error).split())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the parsed namespace's `run` is the command's function."""
    parser = _Parser(prog="python -m gra_core", description="Edit portraits: smile, age, pose and more.")
    parser.add_argument("--version", action="version", version=f"gra_core {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    edit = commands.add_parser("edit", help="edit one photo", description="Edit one face in a photo.")
    edit.add_argument("photo", type=Path, metavar="PHOTO")
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
    edit.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".png, .jpg or .webp")
    edit.add_argument("--paste-back", action="store_true", help="write the whole photo, not only the face")
    edit.add_argument("--face", type=_count, default=1, metavar="N", help="which face, 1 being the largest (1)")
    edit.add_argument("--aligned", action="store_true", help="PHOTO is an aligned square face crop already")
    _add_model(edit)
    edit.set_defaults(run=run_edit)

    batch = commands.add_parser(
        "batch", help="edit many photos alike", description="Edit the largest face in each photo of a folder or zip."
    )
    batch.add_argument("source", type=Path, metavar="IN", help="a folder, a zip or a photo")
    batch.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as of edit")
    batch.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a .zip to write, or a folder")
    batch.add_argument("--paste-back", action="store_true", help="write whole photos, not only the faces")
    batch.add_argument("--format", choices=["png", "jpg", "webp"], default="png", help="of the results (png)")
    _add_model(batch)
    batch.set_defaults(run=run_batch)

    _add_evaluate(commands)

    benchmark = commands.add_parser("benchmark", help="measure speed and memory")
    benchmark.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, .json")
    benchmark.add_argument("--repeats", type=_count, default=7, metavar="N", help="timed calls of each step (7)")
    _add_model(benchmark)
    benchmark.set_defaults(run=run_benchmark)

    train = commands.add_parser("train", help="train the encoder or the two streams")
    train.add_argument("part", choices=["encoder", "streams"])
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of that part; try --help")
    train.set_defaults(run=run_train)

    directions = commands.add_parser("directions", help="list, fit, search or check the edit directions")
    directions.add_argument("action", choices=["list", "fit", "search", "correct", "check"])
    directions.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the others than list")
    directions.set_defaults(run=run_directions)
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"gra_core: error: {message} (see {self.prog} --help)\n")


def run_edit(args: argparse.Namespace) -> None:
    """`edit`: photo in, edited face or photo out."""
    if args.aligned and (args.paste_back or args.face != 1):
        raise GRAError("--aligned takes a single face crop: it goes with neither --paste-back nor --face.")
    from gra_core.export import FORMATS, check_size, describe

    check_output(args.output, FORMATS)
    registry = load_registry(args.checkpoints)
    own = load_own_directions(args.direction, registry)
    strengths = parse_strengths(args.set, registry | own)

    from gra_core.images import read_photo

    photo = read_photo(args.photo)
    if args.aligned:
        width, height = photo.image.size
        if width != height:
            raise GRAError(f"An aligned face crop is square; {args.photo} is {width} x {height}.")
        editor = _load_editor(args)
        editor.edits |= own
        result = editor.edit(editor.invert(photo.image), strengths)
    else:
        from gra_core.alignment import FaceAligner
        from gra_core.compositing import compose

        if args.paste_back:
            check_size(photo.image.size, args.output.suffix)
        aligner = FaceAligner()
        photo, faces = aligner.find(photo)
        if args.face > len(faces):
            found = "1 face was found" if len(faces) == 1 else f"{len(faces)} faces were found"
            raise NoFaceError(f"There is no face {args.face}: {found}, and --face counts from 1, the largest.")
        aligned = aligner.align(photo.image, faces[args.face - 1])
        editor = _load_editor(args)
        editor.edits |= own
        output = editor.render(editor.invert(aligned.image), strengths)
        result = output.image
        if args.paste_back:
            result = photo.transparent(compose(photo.image, [(aligned, output)], faces))
    for note in photo.notes:
        print(f"gra_core: note: {note}", file=sys.stderr)
    write_image(result, args.output, describe(strengths, registry | own))
    print(f"Wrote {args.output} ({result.width} x {result.height})")


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
    editor = _load_editor(args)
    failed = 0
    with (ZipSink if to_zip else FolderSink)(args.output) as sink:
        options = {"whole_photo": args.paste_back, "suffix": f".{args.format}"}
        for outcome in edit_batch(editor, FaceAligner(), items, strengths, sink, **options):
            failed += outcome.error is not None
            said = outcome.error or " ".join(("done", *outcome.notes))
            print(f"[{outcome.done}/{outcome.total}] {outcome.name}: {said}", file=sys.stderr)
    print(f"Wrote {len(items) - failed} of {len(items)} photos to {args.output}")
    return 0 if not failed else EXIT_USER_ERROR if failed == len(items) else EXIT_SOME_FAILED


def run_evaluate(args: argparse.Namespace) -> None:
    """`evaluate`: quality metrics over a folder, as JSON."""
    if not args.folder.is_dir():
        raise GRAError(f"{args.folder} is not a folder.")
    check_output(args.out, {".json"})

    from gra_core.evaluation import evaluate
    from gra_core.export import FORMATS

    if args.grid:
        check_output(args.grid, FORMATS)

    evaluate.run(
        args.folder,
        args.out,
        methods=args.methods,
        edits=args.edits,
        strength=args.strength,
        limit=args.limit,
        edits_exact=args.edits_exact,
        baselines=args.baselines,
        optimize=args.optimize,
        nets=args.nets,
        kid=args.kid,
        groups=args.groups,
        checkpoints=args.checkpoints,
        device=args.device,
        processes=args.processes,
        grid=args.grid,
    )
    print(f"Wrote {args.out}")


def run_benchmark(args: argparse.Namespace) -> None:
    """`benchmark`: latency of each step, memory and the device's name, as JSON."""
    check_output(args.out, {".json"})
    report = benchmark(args)
    write_json(report, args.out)
    for step, seconds in report["seconds"].items():
        print(f"{step:<14} {seconds['median'] * 1000:9.1f} ms")
    print(f"{'peak memory':<14} {report['peak_memory_mib']:9.0f} MiB")
    print(f"Wrote {args.out}")


def run_train(args: argparse.Namespace) -> int | None:
    """`train encoder|streams`: hands the remaining options to the trainer."""
    return import_module(f"gra_core.training.{args.part}").main(args.rest)


def run_directions(args: argparse.Namespace) -> int | None:
    """`directions list`: a table of the edits; `fit`, `search` and `check` hand their options to the fitting module."""
    if args.action == "list":
        if args.rest:
            raise GRAError("directions list takes no options.")
        _print_table(load_registry().values())
        return 0
    from gra_core.directions import fit

    return fit.main([args.action, *args.rest])


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


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    """Time what the page does.

    Args:
        args: `repeats` (timed calls of each step, after one untimed call), `checkpoints` and `device`.

    Returns:
        A JSON-ready report: versions, device, seconds per step (median, fastest, slowest), first-call seconds
        and peak resident memory in MiB (and peak GPU memory on a GPU).
    """
    import resource  # not on Windows, where only this command is missing

    started = time.perf_counter()
    editor = _load_editor(args)
    loaded = time.perf_counter()

    import torch

    face = _benchmark_face()
    strengths = {name: edit.maximum / 2 for name, edit in list(editor.edits.items())[:2]}
    steps: dict[str, Callable[[], object]] = {
        "invert": lambda: editor.invert(face),
        "reconstruct": lambda: editor.edit(inversion, {}),
        "edit": lambda: editor.edit(inversion, strengths),
    }
    before = time.perf_counter()
    inversion = editor.invert(face)
    inverted = time.perf_counter()
    editor.edit(inversion, strengths)
    first = {"load": loaded - started, "invert": inverted - before, "edit": time.perf_counter() - inverted}

    seconds = {}
    for step, call in steps.items():
        call()
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        seconds[step] = {"median": statistics.median(times), "fastest": min(times), "slowest": max(times)}

    on_gpu = torch.cuda.is_available() and args.device != "cpu"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "first_call_seconds": first,
        "seconds": seconds,
        "peak_memory_mib": peak / (1024**2 if sys.platform == "darwin" else 1024),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 1024**2 if on_gpu else None,
    }


def _benchmark_face() -> PIL.Image.Image:
    """The first example face, or a plain picture where there is none: time does not depend on the content."""
    from PIL import Image

    from gra_core.constants import ASSETS_DIR, IMAGE_SIZE
    from gra_core.images import load_image

    examples = sorted((ASSETS_DIR / "examples").glob("*.webp"))
    face = load_image(examples[0]) if examples else Image.radial_gradient("L").convert("RGB")
    return face.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)


def _cpu_name() -> str:
    """The processor's name with its number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _load_editor(args: argparse.Namespace) -> PortraitEditor:
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


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="measure quality on a folder of portraits")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="aligned portraits or raw photos")
    evaluate.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, .json")
    evaluate.add_argument("--limit", type=_count, metavar="N", help="take only the first N pictures")
    evaluate.add_argument("--methods", nargs="+", metavar="NAME", help="methods to compare (default: all)")
    evaluate.add_argument(
        "--edits", nargs="+", default=["smile", "age", "yaw"], metavar="NAME", help="edits to measure (smile age yaw)"
    )
    evaluate.add_argument("--strength", type=float, default=60.0, metavar="VALUE", help="of each edit, + and - (60)")
    evaluate.add_argument(
        "--edits-exact",
        type=_count_or_none,
        default=0,
        metavar="N",
        help="also measure the edits on N generated faces, whose true edit is known (0: off)",
    )
    evaluate.add_argument("--baselines", type=Path, metavar="DIR", help="trained streams of other designs to compare")
    evaluate.add_argument(
        "--optimize", type=_count, default=0, metavar="N", help="also optimise code and generator for N pictures (slow)"
    )
    evaluate.add_argument("--nets", type=Path, metavar="DIR", help="scoring nets: attribute change and background too")
    evaluate.add_argument(
        "--groups",
        type=_count,
        default=0,
        metavar="N",
        help="also N portraits and N generated faces, by kind of picture",
    )
    evaluate.add_argument("--grid", type=Path, metavar="FILE", help="also a picture of what each method does")
    evaluate.add_argument("--processes", type=_count, default=1, metavar="N", help="that share the work (1)")
    evaluate.add_argument("--kid", action="store_true", help="also the kernel distance on EfficientNet-Lite0 features")
    _add_model(evaluate)
    evaluate.set_defaults(run=run_evaluate)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", metavar="DIR", help="folder or Hub repository of the weights (default: checkpoints/)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one)")


def _count(text: str, smallest: int = 1) -> int:
    """A whole number from `smallest`, for argparse."""
    number = int(text)
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be {smallest} or more, not {text}")
    return number


def _count_or_none(text: str) -> int:
    """A whole number from 0, for argparse."""
    return _count(text, smallest=0)


_count.__name__ = _count_or_none.__name__ = "number"  # argparse: "invalid number value: 'x'"
