"""The command `python -m gra_core evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gra_core.cli import Parser, add_model_options, check_output, count, count_or_none
from gra_core.errors import GRAError
from gra_core.export import FORMATS
from gra_core.lab.evaluation import evaluate


def parser() -> argparse.ArgumentParser:
    """Options of `evaluate`."""
    options = Parser(prog="python -m gra_core evaluate", description="Measure quality on a folder of portraits.")
    options.add_argument("folder", type=Path, metavar="DIR", help="aligned portraits or raw photos")
    options.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, .json")
    options.add_argument("--limit", type=count, metavar="N", help="take only the first N pictures")
    options.add_argument("--methods", nargs="+", metavar="NAME", help="methods to compare (default: all)")
    options.add_argument(
        "--edits", nargs="+", default=["smile", "age", "yaw"], metavar="NAME", help="edits to measure (smile age yaw)"
    )
    options.add_argument("--strength", type=float, default=60.0, metavar="VALUE", help="of each edit, + and - (60)")
    options.add_argument(
        "--edits-exact",
        type=count_or_none,
        default=0,
        metavar="N",
        help="also measure the edits on N generated faces, whose true edit is known (0: off)",
    )
    options.add_argument("--baselines", type=Path, metavar="DIR", help="trained streams of other designs to compare")
    options.add_argument(
        "--optimize", type=count, default=0, metavar="N", help="also optimise code and generator for N pictures (slow)"
    )
    options.add_argument("--nets", type=Path, metavar="DIR", help="scoring nets: attribute change and background too")
    options.add_argument(
        "--groups",
        type=count,
        default=0,
        metavar="N",
        help="also N portraits and N generated faces, by kind of picture",
    )
    options.add_argument("--grid", type=Path, metavar="FILE", help="also a picture of what each method does")
    options.add_argument("--processes", type=count, default=1, metavar="N", help="that share the work (1)")
    options.add_argument("--kid", action="store_true", help="also the kernel distance on EfficientNet-Lite0 features")
    add_model_options(options)
    return options


def main(argv: Sequence[str]) -> None:
    """Entry point of `python -m gra_core evaluate`: quality metrics over a folder, as JSON."""
    args = parser().parse_args(argv)
    if not args.folder.is_dir():
        raise GRAError(f"{args.folder} is not a folder.")
    check_output(args.out, {".json"})

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
