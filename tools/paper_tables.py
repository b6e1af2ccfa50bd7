"""The paper's Tables 1 to 8: what each row is about, the number that the paper prints, and ours from the records."""

from __future__ import annotations

import re
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from engine.schema import leaves
from feeders.choices import STREAMS
from fusion.weights import EQUAL
from heads.registry import HEADS, title_of_head
from tools.runs import Record, RecordError, folder_of_words, settings_of_words, standard_words

Table = list[list[str]]
"""Rows of cells, the first row the head."""

ENCODERS = {
    "hcn": "HCN",
    "agcn": "2S-AGCN",
    "ctrgcn": "CTR-GCN",
    "infogcn": "InfoGCN",
    "hyperformer": "Hyperformer",
    "blockgcn": "BlockGCN",
}
"""Those of the paper's tables."""
FURTHER = {
    "stgcn": "ST-GCN",
    "stgcnpp": "ST-GCN++",
    "shiftgcn": "Shift-GCN",
    "skateformer": "SkateFormer",
    "dcgcn": "DC-GCN",
    "hdgcn": "HD-GCN",
    "hypergcn": "Hyper-GCN",
    "tacnn": "Ta-CNN",
}
"""Other encoders, as tables call them."""
SBU_FOLDS = tuple(f"sbu-fold{fold}" for fold in range(1, 6))
BENCHMARKS = {
    "ntu60-xsub": "NTU60 X-Sub",
    "ntu60-xview": "NTU60 X-View",
    "ntu120-xsub": "NTU120 X-Sub",
    "ntu120-xset": "NTU120 X-Set",
    "nw-ucla": "NW-UCLA",
    "utkinect": "UTKinect",
    "msr-action3d": "MSR Action3D",
    **{name: f"SBU, fold {name[-1]}" for name in SBU_FOLDS},
    "sbu": "SBU, five folds",
}
INPUTS: dict[str, tuple[str, ...]] = {"J": ("joint",), "B": ("bone",), "2S": STREAMS[:2], "4S": STREAMS}

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
TABLES_1_TO_3 = {"1": ("ntu60-xsub", "ntu60-xview"), "2": ("ntu120-xsub", "ntu120-xset"), "3": ("nw-ucla",)}
TABLE_5 = {
    "S": ["spatial"],
    "T": ["temporal"],
    "G": ["global"],
    "S+T+G": ["spatial", "temporal", "global"],
    "S+T": ["spatial", "temporal"],
}
TABLE_6 = (("R", "R"), ("R", "H"), ("R", "R+H"), ("H", "R"), ("H", "H"), ("H", "R+H"), ("R+H", "R+H"))
"""Kinds of positives and of negatives (H hard, R random)."""
TABLE_6_NUMBERS = {"positives": 128, "negatives": 512}
"""Of each kind that is chosen."""

PAPER: dict[tuple[str, str, str], dict[str, float]] = {
    ("ntu60-xsub", "hcn", ""): {"J": 84.3},  # printed in the column of two streams: one network sees both
    ("ntu60-xsub", "hcn", "csre"): {"J": 85.1},
    ("ntu60-xview", "hcn", ""): {"J": 89.9},
    ("ntu60-xview", "hcn", "csre"): {"J": 91.2},
    ("ntu60-xsub", "agcn", ""): {"J": 88.9, "B": 89.2},
    ("ntu60-xview", "agcn", ""): {"J": 94.5, "B": 94.1},
    ("nw-ucla", "agcn", ""): {"J": 92.0, "B": 92.2},
    ("ntu60-xsub", "ctrgcn", ""): {"J": 89.8},
    ("ntu60-xview", "ctrgcn", ""): {"J": 94.8},
    ("ntu120-xsub", "ctrgcn", ""): {"J": 84.9},
    ("ntu120-xsub", "ctrgcn", "skeleton_gcl"): {"J": 85.6},
    ("ntu120-xset", "ctrgcn", ""): {"J": 86.7},
    ("nw-ucla", "ctrgcn", ""): {"J": 94.6},
    ("nw-ucla", "infogcn", ""): {"J": 93.8, "B": 94.2, "2S": 95.5, "4S": 96.1},
    ("nw-ucla", "infogcn", "csre"): {"J": 94.2, "B": 95.5, "2S": 95.9, "4S": 96.5},
}
"""Top-1 (%) by benchmark, encoder and head, and by input, as the paper's Tables 1 to 4 print it."""

PAPER_COST = {
    ("agcn", ""): (7.5, 5.1),
    ("agcn", "csre"): (7.8, 8.8),
    ("ctrgcn", ""): (11.5, 19.9),
    ("ctrgcn", "csre"): (11.7, 23.5),
}
"""Training memory (GB) and minutes an epoch on NTU120, by encoder and head: the paper's Table 8."""

FREE = {"seed", "data.stream", "optim.amp", "optim.published_amp", "optim.test_batch_size"}
"""Settings that may differ between runs of one recipe."""


class Query(NamedTuple):
    """Which runs a row of a table is about; `head` may be several, as `csre+fr_head`; `settings` differ from the
    published recipe."""

    benchmark: str
    encoder: str
    head: str = ""
    input: str = "J"
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    label: str = ""

    @property
    def heads(self) -> list[str]:
        """As records have them."""
        return self.head.split("+") if self.head else []

    @property
    def command(self) -> str:
        """The command that fills the row."""
        words = {stream: self._words(stream) for stream in INPUTS[self.input]}
        first, *others = words.values()
        label = re.sub(r"\W+", "_", self.label) or "_".join(head for head in self.heads if f"--{head}.enabled" in first)
        name = ["--name", "_".join(filter(None, ["{name}", label, "seed{seed}"]))]
        if self.benchmark == "sbu":
            return f"{sweep_of(main_command(first), 'data.benchmark', SBU_FOLDS)} {shlex.join(name)}"
        if not others:
            return main_command([*first, *name])
        streams: dict[str, list[str]] = defaultdict(list)  # of a configuration; that of bones may be another
        for stream, given in words.items():
            streams[re.sub(r" --data\.stream \S+", "", main_command(given))].append(stream)
        trainings = [f"{sweep_of(command, 'data.stream', of)} {shlex.join(name)}" for command, of in streams.items()]
        runs = " ".join(str(folder_of_words([*given, *name])) for given in words.values())
        fusion = f"python ensemble.py {runs} --output fused.json"
        return " && ".join([*trainings, fusion, "python tools/record.py fused.json"])

    def _words(self, stream: str) -> list[str]:
        """What trains a stream, after `main.py`."""
        words = standard_words(self.benchmark, self.encoder, self.heads, stream)
        if words is None:
            place = f"config/{self.benchmark}/{self.encoder}_joint.yaml"
            raise RecordError(f"{place}: no such recipe; name another --benchmark or --encoder")
        for key, value in self.settings.items():
            words += [f"--{key}", ",".join(value) if isinstance(value, list) else str(value)]
        return words


def table(number: str, records: Sequence[Record], benchmark: str, encoder: str, weights: str = EQUAL) -> Table:
    """One of the paper's tables; Tables 4 to 6 for a benchmark and an encoder."""
    if number in ("7", "8"):
        return _levels(records) if number == "7" else _costs(records)
    records = [*records, *over_folds(records)]
    return accuracies(records, queries(number, benchmark, encoder, records), weights)


def queries(number: str, benchmark: str, encoder: str, records: Iterable[Record] = ()) -> list[Query]:
    """The rows of Tables 1 to 6; in Table 4 also those of heads that some of the records have together."""
    if number in TABLES_1_TO_3:
        return [
            Query(name, encoder, head, kind)
            for name in TABLES_1_TO_3[number]
            for encoder in ENCODERS
            for kind in (("J",) if encoder == "hcn" else INPUTS)  # HCN's one network is what papers call its 2S
            for head in ("", "csre")
        ]
    if number == "4":
        same = [
            record["heads"] for record in records if (record["benchmark"], record["encoder"]) == (benchmark, encoder)
        ]
        together = {"+".join(heads) for heads in same if len(heads) > 1 and set(heads) <= HEADS.keys()}
        return [Query(benchmark, encoder, head) for head in ("", *HEADS, *sorted(together | {"csre+fr_head"}))]
    varied: dict[str, dict[str, Any]]
    if number == "5":
        varied = {f"CSRE {name}": {"csre.branches": branches} for name, branches in TABLE_5.items()}
    else:
        varied = {
            f"positives {positives}, negatives {negatives}": {
                f"csre.{side}.{kind}": TABLE_6_NUMBERS[side] if letter in kinds else 0
                for side, kinds in (("positives", positives), ("negatives", negatives))
                for kind, letter in (("hard", "H"), ("random", "R"))
            }
            for positives, negatives in TABLE_6
        }
    rows = [Query(benchmark, encoder)] if number == "5" else []
    for label, values in varied.items():
        settings = {key: value for key, value in values.items() if value != leaves()[key].default}
        rows.append(Query(benchmark, encoder, "csre", "J", settings, label))
    return rows


def accuracies(records: Sequence[Record], rows: Iterable[Query], weights: str = EQUAL) -> Table:
    """A row for each query: the paper's number, ours and the difference, or the command that fills it."""
    cells = [["benchmark", "run", "input", "paper", "last", "best", "seeds", "difference", "to fill it"]]
    for query in rows:
        last, best = find(records, query, weights)
        paper = None if query.settings else PAPER.get(query[:3], {}).get(query.input)
        one_network = query.encoder == "hcn" and query.input == "J"
        cells.append(
            [
                benchmark_title(query.benchmark),
                query.label or title_of(query.encoder, query.heads),
                f"{query.input} (with its motion)" if one_network else query.input,
                f"{paper:.1f}" if paper else "",
                spread(last),
                spread(best),
                str(len(best) or len(last) or ""),
                f"{statistics.mean(best) - paper:+.2f}" if best and paper else "",
                "" if best or last else query.command,
            ]
        )
    return cells


def find(records: Iterable[Record], query: Query, weights: str = EQUAL) -> tuple[list[float], list[float]]:
    """Top-1 of the matching runs in their last and in their best epoch, of each seed the first."""
    about, streams = (query.benchmark, query.encoder, query.heads), sorted(INPUTS[query.input])
    same = [record for record in records if (record["benchmark"], record["encoder"], record["heads"]) == about]
    runs = [record for record in same if record["kind"] == "run" and variation(record) == query.settings]
    of_recipe = {run["name"] for run in runs}
    found = [(r["seed"], s, r[s]["top1"]) for r in runs if [r["stream"]] == streams for s in ("last", "best")]
    found += [
        (record["seed"], record["selection"], record["top1"])
        for record in same
        if record["kind"] == "ensemble"
        and sorted(record["streams"]) == streams
        and record["weights"]["name"] == weights
        and {member["run"] for member in record["members"]} <= of_recipe
    ]
    last, best = ({str(seed): top1 for seed, which, top1 in reversed(found) if which == s} for s in ("last", "best"))
    return list(last.values()), list(best.values())


def over_folds(records: Iterable[Record]) -> list[Record]:
    """The means of runs that differ in nothing but their fold of SBU, as records of the benchmark `sbu`."""
    folds: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        if record["kind"] == "run" and record["benchmark"] in SBU_FOLDS:
            command = re.sub(r" --data\.benchmark \S+", "", record["command"])
            folds[command].setdefault(record["benchmark"], record)
    means = []
    for command, runs in folds.items():
        if len(runs) == len(SBU_FOLDS):
            tops = {s: {"top1": statistics.mean(run[s]["top1"] for run in runs.values())} for s in ("last", "best")}
            tops["last"]["epoch"] = max(run["last"]["epoch"] for run in runs.values())
            first = runs[SBU_FOLDS[0]]
            means.append({**first, "benchmark": "sbu", "command": command, "validation_curve": [], **tops})
    return means


def main_command(words: Sequence[str]) -> str:
    """`python main.py WORDS`."""
    return shlex.join(["python", "main.py", *words])


def sweep_of(command: str, key: str = "", values: Iterable[str] = ()) -> str:
    """A command of main.py as one of tools/sweep.py, which may vary one more setting."""
    files = "+".join(re.findall(r"--config (\S+)", command))
    rest = re.sub(r"^python main\.py( --config \S+)+", "", command)
    rest = re.sub(r" --(\S+) ('[^']*'|\S+)", r" --with \1=\2", rest)
    return f"python tools/sweep.py --config {files}{rest}" + (f" --set {key}={','.join(values)}" if key else "")


def epochs_of(records: Sequence[Record]) -> str:
    """`65`, or `20-41 of 65` where early stopping ended the trainings."""
    epochs, ends = records[0]["epochs"], sorted({record["last"]["epoch"] for record in records})
    if ends == [epochs]:
        return str(epochs)
    return f"{'-'.join(dict.fromkeys((str(ends[0]), str(ends[-1]))))} of {epochs}"


def variation(record: Record) -> dict[str, Any] | None:
    """The settings in which a run differs from the published recipe; None where there is no such recipe."""
    words = standard_words(record["benchmark"], record["encoder"], record["heads"], record["stream"])
    if words is None:
        return None
    given = {key: leaf.default for key, leaf in leaves().items()} | record["settings"]
    standard = settings_of_words(words).items()
    return {key: given[key] for key, value in standard if given[key] != value and key not in FREE}


def levels(baseline: dict[str, list[int]], other: dict[str, list[int]]) -> dict[str, tuple[Any, ...]]:
    """Table 7: accuracies of hard, medium and easy classes by the baseline's class accuracy.

    Args:
        baseline, other: of each class its clips, and how many of them were correct; as in records.

    Returns:
        By level: number of classes and of clips, then class means and clip means (%) of the baseline and the other.
    """
    members: dict[str, list[str]] = {"hard": [], "medium": [], "easy": []}
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


def _levels(records: Sequence[Record]) -> Table:
    """Table 7 of every plain run that has one with CSRE of the same benchmark, encoder, stream and seed; last epoch."""
    numbers = ["classes", "clips", "class mean", "+ CSRE", "clip mean", "+ CSRE"]
    rows = [["benchmark", "run", "level", *numbers, "to fill it"]]
    plain, csre = (
        {
            (record["benchmark"], record["encoder"], record["stream"], record["seed"]): record["classes"]
            for record in reversed(records)  # of several the first counts
            if record["kind"] == "run" and record["heads"] == heads and variation(record) == {}
        }
        for heads in ([], ["csre"])
    )
    for key in sorted(plain.keys() & csre.keys()):
        benchmark, encoder, stream, seed = key
        place = [benchmark_title(benchmark), f"{title_of(encoder, [])}, {stream}, seed {seed}"]
        for level, (classes, clips, *means) in levels(plain[key], csre[key]).items():
            shown = [f"{mean:.2f}" for mean in means] or [""] * 4
            rows.append([*place, level, str(classes), str(clips), *shown, ""])
    if len(rows) == 1:
        for query in (Query("ntu120-xsub", "ctrgcn"), Query("ntu120-xsub", "ctrgcn", "csre")):
            title = title_of(query.encoder, query.heads)
            rows.append([benchmark_title(query.benchmark), title, "", *[""] * len(numbers), query.command])
    return rows


def _costs(records: Sequence[Record]) -> Table:
    """Table 8, on NTU120 X-Sub: means over the runs on the device of the first, as other devices have other costs."""
    rows = [["run", "paper GB", "paper min/epoch", "GB", "min/epoch", "device", "to fill it"]]
    for query in (Query("ntu120-xsub", encoder, head) for encoder in ENCODERS for head in ("", "csre")):
        about = (query.benchmark, query.encoder, query.heads)
        same = [r for r in records if (r["benchmark"], r["encoder"], r["heads"]) == about and r.get("wall_seconds")]
        runs = [run for run in same if variation(run) == {}]
        runs = [run for run in runs if run["machine"]["device"] == runs[0]["machine"]["device"]]
        ours = ["", "", "", query.command]
        if runs:
            memory = statistics.mean(run["peak_memory_mb"] / 1000 for run in runs)
            minutes = statistics.mean(run["wall_seconds"] / 60 / run["last"]["epoch"] for run in runs)
            ours = [f"{memory:.1f}", f"{minutes:.1f}", runs[0]["machine"]["device"], ""]
        paper = map(str, PAPER_COST.get((query.encoder, query.head), ("", "")))
        rows.append([title_of(query.encoder, query.heads), *paper, *ours])
    return rows


def benchmark_title(name: str) -> str:
    """`NW-UCLA`."""
    return BENCHMARKS.get(name, name)


def title_of(encoder: str, heads: Sequence[str]) -> str:
    """`CTR-GCN + CSRE`."""
    return " + ".join([(ENCODERS | FURTHER).get(encoder, encoder), *map(title_of_head, heads)])


def spread(values: Sequence[float]) -> str:
    """`91.38 ± 0.61`, the mean and the standard deviation over seeds; without the latter for one seed."""
    if not values:
        return ""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
