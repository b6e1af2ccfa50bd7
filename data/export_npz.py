"""Write a store of NTU RGB+D as published arrays: `python data/export_npz.py STORE --protocol xsub --output X.npz`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.arguments import Parser, count
from common.files import user_path
from common.front_door import run_command
from feeders.choices import SECOND_PERSON
from feeders.ntu.clip_bar import ClipBar
from feeders.ntu.export import export_npz
from feeders.ntu.names import PUBLISHED_FRAMES


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 written; 2 refused, the reason on stderr in one line; 130 interrupted, nothing written.
    """
    return run_command("export_npz.py", lambda: _run(argv), interrupted="interrupted; nothing was written")


def _run(argv: Sequence[str] | None) -> None:
    options = _parser().parse(argv)
    words = options.store, options.protocol, options.output, options.frames, options.second_person
    with ClipBar("export") as bar:
        exported = export_npz(*words, progress=bar)
    clips = exported.clips
    print(f"{options.output}: {clips['train']:,} training and {clips['test']:,} test clips of {options.frames} frames")
    if exported.cut:
        print(f"{len(exported.cut):,} clips lost frames beyond {options.frames}, the first is {exported.cut[0]}")


def _parser() -> Parser:
    parser = Parser(
        prog="export_npz.py",
        usage="python data/export_npz.py STORE --protocol xsub|xview|xset --output FILE [options]",
        description="Write one protocol of a store that data/prepare_ntu.py made in the padded layout that CTR-GCN and "
        "its descendants read: 180 kB per clip at 300 frames.",
    )
    add = parser.add_argument
    add("store", type=user_path, metavar="STORE", help="the packed store")
    add("--protocol", required=True, metavar="NAME", help="xsub; xview (ntu60) or xset (ntu120)")
    add("--output", type=user_path, required=True, metavar="FILE", help="such as NTU60_CS.npz")
    add("--frames", type=count, default=PUBLISHED_FRAMES, metavar="N", help="padded length (default: %(default)s)")
    add(
        "--second-person",
        choices=SECOND_PERSON,
        help="where there is only one: zeros, or a copy of the first (default: as published, copy for ntu120)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
