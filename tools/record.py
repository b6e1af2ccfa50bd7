"""Record finished trainings and fusions: one small JSON file each under results/, with nothing typed by hand.

    python tools/record.py work_dir/nw-ucla/hcn_csre_joint ...
    python ensemble.py RUN... --output fused.json && python tools/record.py fused.json
    python tools/record.py results/*/*.json     # after a change of configurations: renew their commands
    python tools/record.py work_dir/nw-ucla/hcn_csre_joint --weights    # recorded runs: their encoder into weights/

`tools/runs.py` says what a record holds. tools/tables.py makes the tables of results of them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser
from common.files import user_path, write_atomically
from common.front_door import run_command
from heads.registry import head_names
from tools.paper_tables import title_of
from tools.runs import (
    REPOSITORY,
    RESULTS,
    Record,
    RecordError,
    load_records,
    read_json,
    read_record,
    record_of,
    renewed,
    settings_of,
)
from tools.tables import formatted

WEIGHTS = REPOSITORY / "weights"
PAGE = """# Weights

Encoders of finished full-length runs after their **last epoch**, without training heads, stored in float16 (a tensor
beyond its range in float32). Top-1 in percent; the best epoch was chosen on these same test clips, is given for
comparison only and is not in the files.

{table}

The command tests the file, on clips that `--data.path` names where they are elsewhere; without its last four words it
trains the run again. A file is a plain state dict, tensors alone, so what it was trained with is named beside it:

```
python tools/predict.py CLIP --weights weights/BENCHMARK/NAME.pt --config CONFIG
```

In Python, `model.load_weights_file(encoder, path)` fills an encoder with it, and
`engine.predictor.load_run(path, settings=...)` gives the encoder with its preprocessing. A test loads every file and,
where the clips are there, gets the accuracy of the last epoch to the clip. This page is made by
`python tools/record.py RUN... --weights`, which adds the weights of recorded runs.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    return run_command("tools/record.py", lambda: _record(_parser().parse(argv)))


def ensemble_record(fusion: dict[str, Any]) -> Record:
    """The record of one fusion in a file that `ensemble.py --output` wrote.

    Raises:
        RecordError: a member that does not lie in a run folder.
    """
    members = []
    for member in fusion["members"]:
        folder = Path(member["scores"]).parent
        if not (folder / "config.yaml").exists():
            raise RecordError(f"{member['scores']}: not in a run folder; only fusions of runs can be recorded")
        values = settings_of(folder)
        members.append(
            {
                "run": member["run"],
                "encoder": member["encoder"],
                "heads": head_names(values),
                "stream": member["stream"],
                "seed": values["seed"],
                "epoch": member["epoch"],
                "top1": round(member["top1"], 4),
            }
        )
    first = members[0]
    streams = fusion["streams"]
    runs = "_".join(dict.fromkeys(member["run"].replace(member["stream"], "*") for member in members)).replace("*", "")
    weights = fusion["weights"]["name"].replace(" ", "_")
    seeds = list(dict.fromkeys(member["seed"] for member in members))
    return {
        "kind": "ensemble",
        "name": f"{runs.replace('__', '_').strip('_')}_{len(streams)}s_{weights}_{fusion['selection']}",
        "benchmark": fusion["benchmark"],
        "encoder": first["encoder"],
        "heads": first["heads"],
        "streams": streams,
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "selection": fusion["selection"],
        "clips": fusion["clips"],
        "top1": round(fusion["top1"], 4),
        "weights": fusion["weights"],
        "members": members,
    }


def ship(folders: Sequence[Path], results: Path = RESULTS, weights: Path = WEIGHTS) -> None:
    """Write the encoder of recorded runs, and the page that lists all of them.

    The weights are those of the last epoch: tensors alone, float16 where all of a tensor is in its range.

    Raises:
        RecordError: a run without a record, or whose record is of another training.
        RunError: a run without its last checkpoint.
    """
    import torch  # takes seconds, which a wrong name need not wait for

    from engine.checkpoint import load_checkpoint

    for folder in folders:
        source = results / folder.resolve().parent.name / f"{folder.resolve().name}.json"
        if not source.exists():
            raise RecordError(f"{folder}: has no record {source}; record the run first, without --weights")
        record = read_record(source)
        if record_of(folder, record["config"])["curve"] != record["curve"]:
            raise RecordError(f"{source}: of another training than {folder}; record this one under a name of its own")
        state = load_checkpoint(folder / "checkpoints" / "last.pt")["encoder"]
        halves = {name: tensor.half() for name, tensor in state.items() if tensor.is_floating_point()}
        # Statistics of batch normalisation can be beyond the range of float16.
        state |= {name: half for name, half in halves.items() if half.isfinite().all()}
        file = weights / record["benchmark"] / f"{record['name']}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, partial(torch.save, state))
        print(file)
    write_atomically(weights / "README.md", lambda out: out.write(weights_page(results, weights).encode()))


def weights_page(results: Path = RESULTS, weights: Path = WEIGHTS) -> str:
    """weights/README.md: a row for each file of weights, from the records of their runs."""
    rows = [
        ["encoder", "benchmark", "stream", "epoch", "top-1 last", "top-1 best", "seed", "weights", "record", "command"]
    ]
    for record in load_records(results):
        file = f"{record['benchmark']}/{record['name']}"
        if (weights / f"{file}.pt").exists():
            best = record["best"]
            rows.append(
                [
                    title_of(record["encoder"], record["heads"]),
                    record["benchmark"],
                    record["stream"],
                    str(record["last"]["epoch"]),
                    f"{record['last']['top1']:.2f}",
                    f"{best['top1']:.2f} (epoch {best['epoch']})",
                    str(record["seed"]),
                    f"[{record['name']}.pt]({file}.pt)",
                    f"[record](../results/{file}.json)",
                    f"{record['command']} --phase test --weights weights/{file}.pt",
                ]
            )
    return PAGE.format(table=formatted(rows, "markdown"))


def _record(options: argparse.Namespace) -> None:
    if options.weights:
        if options.results.resolve() != RESULTS:
            raise RecordError("--results: weights/ is about the records in results/; omit it with --weights")
        for key in ("commit", "config", "replace"):
            if getattr(options, key):
                raise RecordError(f"--{key}: is about records, which --weights leaves as they are; omit one of them")
        ship(options.sources)
        return
    for path in options.sources:
        if path.suffix == ".json":
            content = read_json(path)
            if not isinstance(content, list):  # a record, whose command is renewed
                record = read_record(path)
                _write_json(path, renewed(record) if record["kind"] == "run" else record)
                continue
            if not content or not all(isinstance(fusion, dict) and fusion.get("members") for fusion in content):
                raise RecordError(f"{path}: no fusion in it; `python ensemble.py RUN RUN ... --output FILE` makes one")
            records = [ensemble_record(fusion) for fusion in content]
        else:
            record = record_of(path, options.config, options.commit)
            if record["commit"] is None:
                raise RecordError(f"{path}: does not say which commit trained it; add --commit HASH")
            records = [{**record, "data": _fingerprints(path)}]
        for record in records:
            _write(record, options)


def _write(record: Record, options: argparse.Namespace) -> None:
    file = options.results / record["benchmark"] / f"{record['name']}.json"
    if file.exists() and not options.replace and read_json(file) != record:
        raise RecordError(
            f"{file}: holds another run of this name; replace it with --replace, or train under another --name"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    _write_json(file, record)


def _write_json(file: Path, record: Record) -> None:
    """Indented, but with the innermost lists on one line each."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^][{}]*\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text)
    write_atomically(file, lambda out: out.write(text.encode() + b"\n"))
    print(file)


def _fingerprints(folder: Path) -> dict[str, str]:
    """Of the training and test clips, as the checkpoint has them."""
    from engine.checkpoint import load_checkpoint  # imports torch for seconds, which a wrong name need not wait for

    path = folder / "checkpoints" / "last.pt"
    if not path.exists():
        raise RecordError(f"{path}: missing, but it says which clips were trained on; record a run before removing it")
    return load_checkpoint(path)["data"]


def _parser() -> Parser:
    parser = Parser(prog="tools/record.py", description=__doc__)
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=user_path,
        metavar="RUN_OR_FUSED",
        help="run folder, or JSON: of ensemble.py, or a record",
    )
    add("--commit", metavar="HASH", help="commit of the training, for run folders that do not say")
    add("--config", metavar="FILE", help="configuration to repeat the run with (default: that of its command line)")
    add("--results", type=user_path, default=RESULTS, metavar="FOLDER", help="where records go (default: results/)")
    add("--weights", action="store_true", help="write the encoders of runs recorded in results/ into weights/")
    add("--replace", action="store_true", help="replace other records of the same name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
