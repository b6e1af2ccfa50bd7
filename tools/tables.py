"""Tables of results, from the records in results/ and the finished runs in a working folder.

    python tools/tables.py                     # the paper's Tables 1 to 8
    python tools/tables.py 3 5 --format markdown
    python tools/tables.py runs                # every run, sweeps too, mean and spread over seeds
    python tools/tables.py runs --readme       # the README's table: the recipes' runs in results/

Ours is the mean over seeds, ± their standard deviation; "last" the final epoch, "best" the one with the highest
accuracy on the same test clips, which is what most published numbers are. The difference is ours (best) minus the
paper's. Only runs of the published recipe count, in any precision. The paper's number is missing where it could not be
verified. An empty row says which command fills it (--seed for other seeds; tools/record.py to keep it in results/).
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.errors import UserError
from common.files import write_atomically
from common.front_door import run_command
from engine.schema import leaves
from feeders.choices import STREAMS
from fusion.weights import EQUAL
from heads.registry import HEADS
from tools.runs import (
    REPOSITORY,
    RESULTS,
    Record,
    find_runs,
    load_records,
    record_of,
    settings_of_words,
    standard_words,
)

ENCODERS = {
    "hcn": "HCN",
    "agcn": "2S-AGCN",
    "ctrgcn": "CTR-GCN",
    "infogcn": "InfoGCN",
    "hyperformer": "Hyperformer",
    "blockgcn": "BlockGCN",
}
BENCHMARKS = {
    "ntu60-xsub": "NTU60 X-Sub",
    "ntu60-xview": "NTU60 X-View",
    "ntu120-xsub": "NTU120 X-Sub",
    "ntu120-xset": "NTU120 X-Set",
    "nw-ucla": "NW-UCLA",
}
INPUTS: dict[str, tuple[str, ...]] = {"J": ("joint",), "B": ("bone",), "2S": STREAMS[:2], "4S": STREAMS}

PAPER = {
    ("ntu60-xsub", "hcn", "", "J"): 84.3,  # printed in the column of two streams: one network sees both
    ("ntu60-xsub", "hcn", "csre", "J"): 85.1,
    ("ntu60-xview", "hcn", "", "J"): 89.9,
    ("ntu60-xview", "hcn", "csre", "J"): 91.2,
    ("ntu60-xsub", "agcn", "", "J"): 88.9,
    ("ntu60-xsub", "agcn", "", "B"): 89.2,
    ("ntu60-xview", "agcn", "", "J"): 94.5,
    ("ntu60-xview", "agcn", "", "B"): 94.1,
    ("nw-ucla", "agcn", "", "J"): 92.0,
    ("nw-ucla", "agcn", "", "B"): 92.2,
    ("ntu60-xsub", "ctrgcn", "", "J"): 89.8,
    ("ntu60-xview", "ctrgcn", "", "J"): 94.8,
    ("ntu120-xsub", "ctrgcn", "", "J"): 84.9,
    ("ntu120-xset", "ctrgcn", "", "J"): 86.7,
    ("nw-ucla", "ctrgcn", "", "J"): 94.6,
    ("nw-ucla", "infogcn", "", "J"): 93.8,
    ("nw-ucla", "infogcn", "", "B"): 94.2,
    ("nw-ucla", "infogcn", "", "2S"): 95.5,
    ("nw-ucla", "infogcn", "", "4S"): 96.1,
    ("nw-ucla", "infogcn", "csre", "J"): 94.2,
    ("nw-ucla", "infogcn", "csre", "B"): 95.5,
    ("nw-ucla", "infogcn", "csre", "2S"): 95.9,
    ("nw-ucla", "infogcn", "csre", "4S"): 96.5,
    ("ntu120-xsub", "ctrgcn", "skeleton_gcl", "J"): 85.6,
}
"""Top-1 (%) by benchmark, encoder, head and input, as the paper's Tables 1 to 4 print it."""

PAPER_COST = {
    ("agcn", ""): (7.5, 5.1),
    ("agcn", "csre"): (7.8, 8.8),
    ("ctrgcn", ""): (11.5, 19.9),
    ("ctrgcn", "csre"): (11.7, 23.5),
}
"""Training memory (GB) and minutes an epoch on NTU120, by encoder and head: the paper's Table 8."""

_KINDS = {"R": ("random",), "H": ("hard",), "R+H": ("random", "hard")}
TABLE_5 = {
    "S": ["spatial"],
    "T": ["temporal"],
    "G": ["global"],
    "S+T+G": ["spatial", "temporal", "global"],
    "S+T": ["spatial", "temporal"],
}
TABLE_6 = (("R", "R"), ("R", "H"), ("R", "R+H"), ("H", "R"), ("H", "H"), ("H", "R+H"), ("R+H", "R+H"))
"""Kinds of positives and of negatives (H hard, R random)."""

TITLES = {
    "1": "NTU RGB+D 60",
    "2": "NTU RGB+D 120",
    "3": "NW-UCLA",
    "4": "training heads",
    "5": "which features are contrasted",
    "6": "which positives and negatives are contrasted",
    "7": "classes by the baseline's accuracy: hard < 80 %, medium 80-90 %, easy > 90 %",
    "8": "cost of training on NTU RGB+D 120",
}
LEVELS = ("hard", "medium", "easy")

FREE = {"seed", "data.stream", "optim.amp", "optim.published_amp", "optim.test_batch_size"}
"""Settings that may differ between runs of one recipe."""
MARKERS = ("<!-- results: made by `python tools/tables.py runs --readme` -->", "<!-- end of results -->")
Table = list[list[str]]


class TablesError(UserError):
    """A table that there is not."""


class Query(NamedTuple):
    """Which runs a row of a table is about; `settings` differ from the published recipe."""

    benchmark: str
    encoder: str
    head: str = ""
    input: str = "J"
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    label: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    options = _parser().parse_args(argv)
    return run_command("tools/tables.py", lambda: _show(options))


def collect(results: Path, work_dir: Path | None) -> list[Record]:
    """All records of a folder, and those of finished runs under a working folder which are not among them."""
    records = load_records(results)
    known = {(record["benchmark"], record["name"], str(record.get("curve"))) for record in records}
    for folder in find_runs(work_dir) if work_dir else ():
        try:
            record = record_of(folder)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if (record["benchmark"], record["name"], str(record["curve"])) not in known:
            records.append(record)
    return records


def variation(record: Record) -> dict[str, Any] | None:
    """The settings in which a run differs from the published recipe; None where there is no such recipe."""
    words = standard_words(record["benchmark"], record["encoder"], record["heads"], record["stream"])
    if words is None:
        return None
    standard = settings_of_words(words)
    given = {key: leaf.default for key, leaf in leaves().items()} | record["settings"]
    return {key: given[key] for key, value in standard.items() if given[key] != value and key not in FREE}


def find(records: Iterable[Record], query: Query, weights: str = EQUAL) -> dict[str, list[float]]:
    """Top-1 of the matching runs by `last` and `best`, each sorted by seed."""
    streams, heads = INPUTS[query.input], [query.head] if query.head else []
    found: dict[str, list[tuple[int, float]]] = {"last": [], "best": []}
    records = list(records)
    same = [r for r in records if (r["benchmark"], r["encoder"], r["heads"]) == (query.benchmark, query.encoder, heads)]
    standard = {r["name"] for r in same if r["kind"] == "run" and variation(r) == query.settings}
    for record in same:
        if record["kind"] == "run" and (record["stream"],) == streams and record["name"] in standard:
            for selection, values in found.items():
                values.append((record["seed"], record[selection]["top1"]))
        elif record["kind"] == "ensemble" and sorted(record["streams"]) == sorted(streams):
            of_recipe = all(member["run"] in standard for member in record["members"])
            if of_recipe and record["weights"]["name"] == weights and record["selection"] in found:
                found[record["selection"]].append((record["seed"], record["top1"]))
    return {selection: [top1 for _, top1 in sorted(values)] for selection, values in found.items()}


def command_for(query: Query) -> str:
    """The command that fills the row of a query."""
    streams, heads = INPUTS[query.input], [query.head] if query.head else []
    if len(streams) > 1:
        stem = "_".join([query.encoder, *heads])
        runs = " ".join(f"work_dir/{query.benchmark}/{stem}_{stream}" for stream in streams)
        return f"python ensemble.py {runs} --output fused.json && python tools/record.py fused.json"
    words = standard_words(query.benchmark, query.encoder, heads, streams[0])
    assert words is not None, "there is a recipe for every encoder and benchmark"
    for key, value in query.settings.items():
        words += [f"--{key}", ",".join(value) if isinstance(value, list) else str(value)]
    if query.settings or f"--{query.head}.enabled" in words:
        words += ["--name", "{name}_" + re.sub(r"\W+", "_", query.label or query.head)]
    return shlex.join(["python", "main.py", *words])


def accuracy_table(records: list[Record], queries: Iterable[Query], weights: str = EQUAL) -> Table:
    """One row for each query: the paper's number, ours and the difference, or the command that fills it."""
    rows = [["benchmark", "run", "input", "paper", "last", "best", "seeds", "difference", "to fill it"]]
    for query in queries:
        found = find(records, query, weights)
        paper = PAPER.get((query.benchmark, query.encoder, query.head, query.input)) if not query.settings else None
        counts = len(found["best"]) or len(found["last"])
        difference = f"{statistics.mean(found['best']) - paper:+.2f}" if found["best"] and paper else ""
        one_network = query.encoder == "hcn" and query.input == "J"
        rows.append(
            [
                _benchmark(query.benchmark),
                query.label or title_of(query.encoder, [query.head] if query.head else []),
                f"{query.input} (with its motion)" if one_network else query.input,
                f"{paper:.1f}" if paper else "",
                spread(found["last"]),
                spread(found["best"]),
                str(counts or ""),
                difference,
                "" if counts else command_for(query),
            ]
        )
    return rows


def spread(values: Sequence[float]) -> str:
    """`91.38 ± 0.61`, the mean and the standard deviation over seeds; without the latter for one seed."""
    if not values:
        return ""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def table(number: str, records: list[Record], benchmark: str, encoder: str, weights: str = EQUAL) -> Table:
    """One of the paper's tables; Tables 4 to 6 for a benchmark and an encoder."""
    if number in "123":
        of_number = {"1": ("ntu60-xsub", "ntu60-xview"), "2": ("ntu120-xsub", "ntu120-xset"), "3": ("nw-ucla",)}
        return accuracy_table(
            records,
            [
                Query(name, encoder, head, kind)
                for name in of_number[number]
                for encoder in ENCODERS
                for kind in (("J",) if encoder == "hcn" else INPUTS)  # HCN's one network is what papers call its 2S
                for head in ("", "csre")
            ],
            weights,
        )
    if number == "4":
        return accuracy_table(records, [Query(benchmark, encoder, head) for head in ("", *HEADS)])
    if number == "5":
        queries = [
            Query(
                *(benchmark, encoder, "csre"),
                settings={} if branches == TABLE_5["S+T"] else {"csre.branches": branches},
                label=f"CSRE {name}",
            )
            for name, branches in TABLE_5.items()
        ]
        return accuracy_table(records, [Query(benchmark, encoder), *queries])
    if number == "6":
        return accuracy_table(records, [_table_6_query(benchmark, encoder, *kinds) for kinds in TABLE_6])
    return _levels(records) if number == "7" else _costs(records)


def _table_6_query(benchmark: str, encoder: str, positives: str, negatives: str) -> Query:
    flat = {
        f"csre.{side}.{kind}": number if kind in _KINDS[kinds] else 0
        for side, kinds, number in (("positives", positives, 128), ("negatives", negatives, 512))
        for kind in ("hard", "random")
    }
    settings = {key: count for key, count in flat.items() if count != leaves()[key].default}
    return Query(benchmark, encoder, "csre", "J", settings, label=f"positives {positives}, negatives {negatives}")


def _levels(records: list[Record]) -> Table:
    """Table 7 of every plain run that has one with CSRE of the same benchmark, encoder, stream and seed; last epoch."""
    rows: Table = [
        ["benchmark", "run", "level", "classes", "clips", "class mean", "+ CSRE", "clip mean", "+ CSRE", "to fill it"]
    ]
    runs = {
        (record["benchmark"], record["encoder"], record["stream"], record["seed"], bool(record["heads"])): record[
            "classes"
        ]
        for record in records
        if record["kind"] == "run" and record["heads"] in ([], ["csre"]) and variation(record) == {}
    }
    for benchmark, encoder, stream, seed, with_csre in sorted(runs):
        pair = runs.get((benchmark, encoder, stream, seed, True))
        if with_csre or pair is None:
            continue
        title = f"{title_of(encoder, [])}, {stream}, seed {seed}"
        for level, numbers in levels(runs[benchmark, encoder, stream, seed, False], pair).items():
            shown = [f"{number:.2f}" for number in numbers[2:]] or [""] * 4
            rows.append([_benchmark(benchmark), title, level, *map(str, numbers[:2]), *shown, ""])
    if len(rows) == 1:
        for head in ("", "csre"):
            query = Query("ntu120-xsub", "ctrgcn", head)
            rows.append(
                [BENCHMARKS[query.benchmark], title_of("ctrgcn", [head] if head else []), *[""] * 7, command_for(query)]
            )
    return rows


def levels(baseline: dict[str, list[int]], other: dict[str, list[int]]) -> dict[str, tuple[Any, ...]]:
    """Table 7: accuracies of hard, medium and easy classes by the baseline's class accuracy.

    Args:
        baseline, other: of each class its clips, and how many of them were correct; as in records.

    Returns:
        By level: number of classes and of clips, then class means and clip means (%) of the baseline and the other.
    """
    members: dict[str, list[str]] = {level: [] for level in LEVELS}
    for name, (clips, correct, *_) in baseline.items():
        if clips:
            accuracy = 100 * correct / clips
            members["hard" if accuracy < 80 else "easy" if accuracy > 90 else "medium"].append(name)
    found: dict[str, tuple[Any, ...]] = {}
    for level, names in members.items():
        clips = sum(baseline[name][0] for name in names)
        both = (baseline, other) if names else ()
        class_means = [statistics.mean(100 * counts[name][1] / counts[name][0] for name in names) for counts in both]
        clip_means = [100 * sum(counts[name][1] for name in names) / clips for counts in both]
        found[level] = (len(names), clips, *class_means, *clip_means)
    return found


def _costs(records: list[Record]) -> Table:
    """Table 8, on NTU120 X-Sub."""
    rows: Table = [["run", "paper GB", "paper min/epoch", "GB", "min/epoch", "device", "to fill it"]]
    for encoder in ENCODERS:
        for head in ("", "csre"):
            heads = [head] if head else []
            of_paper = [str(number) for number in PAPER_COST.get((encoder, head), ("", ""))]
            runs = [
                record
                for record in records
                if (record["benchmark"], record["encoder"], record["heads"]) == ("ntu120-xsub", encoder, heads)
                and record.get("wall_seconds")
            ]
            ours = ["", "", "", command_for(Query("ntu120-xsub", encoder, head))]
            if runs:
                memory = statistics.mean(record["peak_memory_mb"] / 1000 for record in runs)
                minutes = statistics.mean(record["wall_seconds"] / 60 / record["epochs"] for record in runs)
                ours = [f"{memory:.1f}", f"{minutes:.1f}", runs[0]["machine"]["device"], ""]
            rows.append([title_of(encoder, heads), *of_paper, *ours])
    return rows


def of_recipes(records: Iterable[Record]) -> list[Record]:
    """The runs of published or proposed recipes at full length, and fusions: no sweeps of other settings."""
    return [record for record in records if record["kind"] == "ensemble" or variation(record) == {}]


def runs_table(records: list[Record]) -> Table:
    """Every run, those that differ in their seed alone in one row, with the command that repeats it."""
    rows = [
        ["benchmark", "run", "input", "epochs", "last", "best", "validation", "paper", "seeds", "precision", "command"]
    ]
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        benchmark, encoder, heads = record["benchmark"], record["encoder"], tuple(record["heads"])
        if record["kind"] == "ensemble":
            key = (benchmark, encoder, heads, " + ".join(record["streams"]), record["weights"]["name"], "")
        else:
            key = (benchmark, encoder, heads, record["stream"], _without_seed(record["command"]), record["epochs"])
        groups[key].append(record)
    for group, members in sorted(groups.items(), key=lambda item: str(item[0])):
        benchmark, encoder, heads, streams, command, epochs = group
        members.sort(key=lambda record: record["seed"] if isinstance(record["seed"], int) else -1)
        seeds = ",".join(dict.fromkeys(str(record["seed"]) for record in members))
        title = title_of(encoder, heads)
        precision = ""
        if members[0]["kind"] == "ensemble":
            values = {s: [r["top1"] for r in members if r["selection"] == s] for s in ("last", "best")}
            title, kind = f"{title}, weights {command}", f"{len(members[0]['streams'])}S"
            folders = " ".join(f"work_dir/{benchmark}/{member['run']}" for member in members[0]["members"])
            command = f"python ensemble.py {folders}"
        else:
            values = {s: [record[s]["top1"] for record in members] for s in ("last", "best")}
            precision = ", ".join(dict.fromkeys(_precision(record) for record in members))
            kind = "J" if streams == "joint" else "B" if streams == "bone" else ""
            changed = ", ".join(f"{key} {value}" for key, value in (variation(members[0]) or {}).items())
            title = f"{title}, {changed}" if changed else title
            command = f"python tools/sweep.py {_sweep_words(command)} --seeds {seeds}"
        paper = None if ", " in title else PAPER.get((benchmark, encoder, "+".join(heads), kind))
        rows.append(
            [
                _benchmark(benchmark),
                title,
                streams.replace("_", " "),
                str(epochs),
                spread(values["last"]),
                spread(values["best"]),
                spread([max(filter(None, curve)) for record in members if (curve := record.get("validation_curve"))]),
                f"{paper:.1f}" if paper else "",
                seeds,
                precision,
                command,
            ]
        )
    return rows


def _without_seed(command: str) -> str:
    return re.sub(r" --seed \d+", "", command)


def _sweep_words(command: str) -> str:
    """A command of main.py as words for tools/sweep.py."""
    files = "+".join(re.findall(r"--config (\S+)", command))
    rest = re.sub(r"^python main\.py( --config \S+)+", "", command)
    return f"--config {files}" + re.sub(r" --(\S+) ('[^']*'|\S+)", r" --with \1=\2", rest)


def _precision(record: Record) -> str:
    amp = record["settings"].get("optim.amp", "auto")
    if amp == "auto":
        on_cpu = record["machine"]["device"] == "cpu"
        amp = "off" if on_cpu else record["settings"].get("optim.published_amp", "off")
    return "float32" if amp == "off" else str(amp)


def _benchmark(name: str) -> str:
    return BENCHMARKS.get(name, name)


def title_of(encoder: str, heads: Sequence[str]) -> str:
    """`CTR-GCN + CSRE`."""
    names = [HEADS[head].title if head in HEADS else head for head in heads]
    return " + ".join([ENCODERS.get(encoder, encoder), *names])


# --- formats ----------------------------------------------------------------------------------------------------------


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


def readme_with(text: str, content: str) -> str:
    """A README with this table between its markers; TablesError without markers."""
    before, found, rest = text.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not found or not end:
        raise TablesError(f"README.md: no place for the table; add the lines {MARKERS[0]} and {MARKERS[1]}")
    return f"{before}{MARKERS[0]}\n{content}\n{MARKERS[1]}{after}"


def _show(options: argparse.Namespace) -> None:
    if options.readme:
        readme = REPOSITORY / "README.md"
        content = readme_with(
            readme.read_text(encoding="utf-8"), formatted(runs_table(of_recipes(load_records())), "markdown")
        )
        write_atomically(readme, lambda file: file.write(content.encode()))
        return
    numbers = options.tables or list(TITLES)
    unknown = [number for number in numbers if number not in TITLES and number != "runs"]
    if unknown:
        raise TablesError(f"table {unknown[0]}: name some of 1 to 8, or runs")
    records = collect(options.results, options.work_dir if options.work_dir.is_dir() else None)
    parts = []
    for number in numbers:
        if number == "runs":
            title, rows = "All runs", runs_table(records)
        else:
            title = f"Table {number}: {TITLES[number]}"
            rows = table(number, records, options.benchmark, options.encoder, options.weights)
        prefix = {"text": "", "markdown": "### ", "csv": "# ", "latex": "% "}[options.format]
        parts.append(f"{prefix}{title}\n{formatted(rows, options.format)}")
    print("\n\n".join(parts))


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="tools/tables.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("tables", nargs="*", metavar="TABLE", help="1 to 8, or runs (default: 1 to 8)")
    add("--format", choices=("text", "markdown", "csv", "latex"), default="text", help="(default: %(default)s)")
    add("--work_dir", "--work-dir", type=Path, default=Path("work_dir"), help="finished runs beside the records")
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="the records (default: results/)")
    add("--benchmark", default="ntu120-xsub", help="of Tables 4 to 6 (default: %(default)s, the paper's)")
    add("--encoder", default="ctrgcn", choices=list(ENCODERS), help="of Tables 4 to 6 (default: %(default)s)")
    add("--weights", default=EQUAL, help="weights of the fused rows: a preset, or 'tuned on test labels'")
    add("--readme", action="store_true", help="write the table of the recipes' runs in results/ into README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
