"""Tables of results, from the records in results/ and the finished runs in a working folder.

    python tools/tables.py                     # the paper's Tables 1 to 8
    python tools/tables.py 3 5 --format markdown
    python tools/tables.py runs                # every run, sweeps too, mean and spread over seeds
    python tools/tables.py sweeps              # what the settings of heads change, in pairs of seeds
    python tools/tables.py --readme            # into README.md the recipes' runs, into docs/results.md the sweeps

Ours is the mean over seeds, ± their standard deviation; "last" the final epoch, "best" the one with the highest
accuracy on the same test clips, which is what most published numbers are; in runs with data.validation, the best on
the held-out clips. The difference is ours (best) minus the paper's. Only runs of the published recipe count, in any
precision, of each seed one: a record before a run folder. The paper's number is missing where it could not be
verified. An empty row says which command fills it (--seed or --seeds for other seeds; tools/record.py to keep it in
results/).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser
from common.errors import UserError
from common.files import user_path
from common.front_door import run_command
from common.words import did_you_mean
from fusion.report import NORMALISED, TUNED
from fusion.weights import EQUAL, PRESETS
from tools.paper_tables import (
    ENCODERS,
    FURTHER,
    PAPER,
    SBU_FOLDS,
    TITLES,
    Table,
    benchmark_title,
    epochs_of,
    over_folds,
    spread,
    sweep_of,
    table,
    title_of,
    variation,
)
from tools.runs import REPOSITORY, RESULTS, Record, find_runs, load_records, record_of
from tools.sweep_table import draw, of_rivals, sweeps, table_of

MORE = ("runs", "sweeps")
FIGURE = REPOSITORY / "docs" / "sweeps.png"
MARKERS = ("<!-- results: made by `python tools/tables.py --readme` -->", "<!-- end of results -->")


class TablesError(UserError):
    """A table that there is not."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    return run_command("tools/tables.py", lambda: _show(_parser().parse(argv)))


def collect(results: Path = RESULTS, work_dir: Path | None = None) -> list[Record]:
    """The records of a folder, then the finished runs under a working folder; of one seed and its settings the first.

    What is left out is named on stderr, but for the runs of the records themselves.
    """
    found: dict[str, Record] = {}
    for record in [*load_records(results), *(_runs_under(work_dir) if work_dir else ())]:
        told_apart_by = record["settings"] if record["kind"] == "run" else record["name"]
        first = found.setdefault(json.dumps([record["benchmark"], told_apart_by], sort_keys=True), record)
        if [first["name"], first.get("curve")] != [record["name"], record.get("curve")]:
            same = f"seed and settings of {first['benchmark']}/{first['name']}, which counts instead"
            print(f"skipped: {record['benchmark']}/{record['name']}: another run with the {same}", file=sys.stderr)
    return list(found.values())


def _runs_under(work_dir: Path) -> Iterator[Record]:
    for folder in find_runs(work_dir):
        try:
            yield record_of(folder)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)


def of_recipes(records: Iterable[Record]) -> list[Record]:
    """The runs of published or proposed recipes at full length, and fusions: no sweeps of other settings."""
    return [record for record in records if record["kind"] == "ensemble" or variation(record) == {}]


def runs_table(records: Iterable[Record]) -> Table:
    """Every run, those that differ in their seed alone in one row, with the command that repeats it."""
    shown = ["last", "best", "validation", "paper", "seeds", "precision", "command"]
    rows = [["benchmark", "run", "input", "epochs", *shown]]
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    records = list(records)
    for record in [*records, *over_folds(records)]:
        about = (record["benchmark"], record["encoder"], tuple(record["heads"]))
        if record["kind"] == "ensemble":
            groups[*about, " + ".join(record["streams"]), record["weights"]["name"], ""].append(record)
        else:
            command = re.sub(r" --seed \d+", "", record["command"])
            groups[*about, record["stream"], command, record["epochs"]].append(record)
    for group, members in sorted(groups.items(), key=lambda item: str(item[0])):
        benchmark, encoder, heads, streams, command, _ = group
        members.sort(key=lambda record: record["seed"] if isinstance(record["seed"], int) else -1)
        seeds = ",".join(dict.fromkeys(str(record["seed"]) for record in members))
        first, title, precision, kind = members[0], title_of(encoder, heads), "", ""
        if first["kind"] == "ensemble":
            values = [[r["top1"] for r in members if r["selection"] == which] for which in ("last", "best")]
            title, kind = f"{title}, weights {command}", f"{len(first['streams'])}S"
            folders = [f"work_dir/{benchmark}/{member['run']}" for member in first["members"]]
            command = " ".join(["python ensemble.py", *folders, *_fusion_words(first["weights"])])
        else:
            values = [[record[which]["top1"] for record in members] for which in ("last", "best")]
            precision = ", ".join(dict.fromkeys(map(_precision, members)))
            kind = {"joint": "J", "bone": "B"}.get(streams, "")
            title = ", ".join([title, *(f"{key} {value}" for key, value in (variation(first) or {}).items())])
            folds = ("data.benchmark", SBU_FOLDS) if benchmark == "sbu" else ()
            command = f"{sweep_of(command, *folds)} --seeds {seeds}" + (" --name '{name}_seed{seed}'" if folds else "")
        held_out = [max(filter(None, curve)) for record in members if (curve := record.get("validation_curve"))]
        paper = None if ", " in title else PAPER.get((benchmark, encoder, "+".join(heads)), {}).get(kind)
        cells = [*map(spread, (*values, held_out)), f"{paper:.1f}" if paper else "", seeds, precision, command]
        trained = epochs_of(members) if first["kind"] == "run" else ""
        rows.append([benchmark_title(benchmark), title, streams.replace("_", " "), trained, *cells])
    return rows


def _fusion_words(weights: dict[str, Any]) -> list[str]:
    """What says on the command line how streams are fused; nothing for equal weights of raw logits."""
    words = [] if len(set(weights["values"])) == 1 else ["--weights", *(f"{value:g}" for value in weights["values"])]
    return [*words, "--normalise", NORMALISED] if weights["name"].endswith(f" {NORMALISED}") else words


def _precision(record: Record) -> str:
    amp = record["settings"].get("optim.amp", "auto")
    if amp == "auto":
        on_cpu = record["machine"]["device"] == "cpu"
        amp = "off" if on_cpu else record["settings"].get("optim.published_amp", "off")
    return "float32" if amp == "off" else str(amp)


def formatted(rows: Table, style: str) -> str:
    """A table as `text`, `markdown`, `csv` or `latex`. Columns without any content are dropped, but in CSV."""
    if style == "csv":
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows(rows)
        return file.getvalue().rstrip("\n")
    kept = [index for index in range(len(rows[0])) if any(row[index] for row in rows[1:])]
    rows = [[row[index] for index in kept] for row in rows]
    if style == "markdown":
        rows = [["`" + cell + "`" if cell.startswith("python ") else cell for cell in row] for row in rows]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
    if style == "latex":
        escaped = [[re.sub(r"([%&_#{}])", r"\\\1", cell).replace("±", r"$\pm$") for cell in row] for row in rows]
        body = [" & ".join(row) + r" \\" for row in escaped]
        top = rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
        return "\n".join([top, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * min(len(lines[0]), 120), *lines[1:]])


def page_with(text: str, content: str) -> str:
    """A page with this table between its markers; TablesError without markers."""
    before, found, rest = text.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not found or not end:
        raise TablesError(f"no place for a table; add the lines {MARKERS[0]} and {MARKERS[1]}")
    return f"{before}{MARKERS[0]}\n{content}\n{MARKERS[1]}{after}"


def tables_of_pages() -> dict[str, str]:
    """The tables that README.md and docs/results.md have, from the records in results/ alone."""
    records = collect()
    tables = {"README.md": runs_table(of_recipes(records)), "docs/results.md": table_of(sweeps(records))}
    return {page: formatted(rows, "markdown") for page, rows in tables.items()}


def _write_pages() -> None:
    for name, content in tables_of_pages().items():
        page = REPOSITORY / name
        page.write_text(page_with(page.read_text(encoding="utf-8"), content), encoding="utf-8")
    draw(sweeps(collect()), FIGURE)


def _show(options: argparse.Namespace) -> None:
    if options.readme:
        defaults = vars(_parser().parse([]))
        useless = [key for key, value in vars(options).items() if key != "readme" and value != defaults[key]]
        if useless:
            raise TablesError(f"--readme takes all from results/ and nothing else; omit {useless[0]}, or --readme")
        _write_pages()
        return
    names = options.tables or list(TITLES)
    unknown = [name for name in names if name not in (*TITLES, *MORE)]
    if unknown:
        raise TablesError(f"table {unknown[0]}: name some of 1 to 8, or {' or '.join(MORE)}")
    for option in ("results", "work_dir"):
        if (folder := getattr(options, option)) and not folder.is_dir():
            raise TablesError(f"--{option} {folder}: no such folder; check the path")
    weights = [f"{name}{end}" for name in (*PRESETS, "given", TUNED) for end in ("", f" {NORMALISED}")]
    if options.weights not in weights:
        hint = did_you_mean(options.weights, weights)
        raise TablesError(f"--weights {options.weights}: no such weights{hint}; known: {', '.join(weights)}")
    work_dir = options.work_dir or Path("work_dir")
    records = collect(options.results, work_dir)
    prefix = {"text": "", "markdown": "### ", "csv": "# ", "latex": "% "}[options.format]
    parts = []
    for title, rows in _chosen(names, records, options):
        if len(rows) > 1:
            parts.append(f"{prefix}{title}\n{formatted(rows, options.format)}")
        else:
            print(f"{title}: none in {options.results} and {work_dir}; see docs/results.md", file=sys.stderr)
    print("\n\n".join(parts))


def _chosen(
    names: Iterable[str], records: Sequence[Record], options: argparse.Namespace
) -> Iterator[tuple[str, Table]]:
    """Title and rows of every table that is asked for."""
    for name in names:
        if name == "runs":
            yield "All runs", runs_table(records)
        elif name == "sweeps":
            yield "Sweeps: difference to the runs without heads", table_of(sweeps(records))
        else:
            rows = table(name, records, options.benchmark, options.encoder, options.weights)
            yield f"Table {name}: {TITLES[name]}", rows
        rivals = of_rivals(sweeps(records)) if name == "4" else []
        if rivals:
            yield "Table 4 with other settings: heads side by side in pairs of seeds", table_of(rivals)


def _parser() -> Parser:
    parser = Parser(prog="tools/tables.py", description=__doc__)
    add = parser.add_argument
    add("tables", nargs="*", metavar="TABLE", help="1 to 8, runs, sweeps (default: 1 to 8)")
    add("--format", choices=("text", "markdown", "csv", "latex"), default="text", help="(default: %(default)s)")
    add("--work_dir", "--work-dir", type=user_path, help="finished runs beside the records (default: work_dir)")
    add("--results", type=user_path, default=RESULTS, metavar="FOLDER", help="the records (default: results/)")
    add("--benchmark", default="ntu120-xsub", help="of Tables 4 to 6 (default: %(default)s, the paper's)")
    add("--encoder", default="ctrgcn", choices=[*ENCODERS, *FURTHER], help="of Tables 4 to 6 (default: %(default)s)")
    add(
        "--weights",
        default=EQUAL,
        help=f"weights of the fused rows: a preset, given, or '{TUNED}'; with ' {NORMALISED}' at its end, too",
    )
    add("--readme", action="store_true", help="renew the tables and the figure of README.md and docs/results.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
