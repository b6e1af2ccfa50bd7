"""Record finished trainings and fusions: one small JSON file each under results/, with nothing typed by hand.

    python tools/record.py work_dir/nw-ucla/hcn_csre_joint ...
    python ensemble.py RUN... --output fused.json && python tools/record.py fused.json
    python tools/record.py results/*/*.json     # after a change of configurations: renew their commands

`tools/runs.py` says what a record holds. tools/tables.py makes the tables of results of them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.files import write_atomically
from common.front_door import run_command
from tools.runs import RESULTS, Record, RecordError, heads_of, read_json, record_of, renewed, settings_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    options = _parser().parse_args(argv)
    return run_command("tools/record.py", lambda: _record(options))


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
                "heads": heads_of(values),
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


def _record(options: argparse.Namespace) -> None:
    for path in options.sources:
        if path.suffix == ".json":
            content = read_json(path)
            if isinstance(content, dict):  # a record, whose command is renewed
                _write_json(path, renewed(content) if content["kind"] == "run" else content)
                continue
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
        raise RecordError(f"{file}: holds another run of this name; rename the run, or replace it with --replace")
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
    import torch  # takes seconds, which a wrong name need not wait for

    path = folder / "checkpoints" / "last.pt"
    if not path.exists():
        raise RecordError(f"{path}: missing, but it says which clips were trained on; record a run before removing it")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["data"]


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="tools/record.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=Path,
        metavar="RUN_OR_FUSED",
        help="run folder, or JSON: of ensemble.py, or a record",
    )
    add("--commit", metavar="HASH", help="commit of the training, for run folders that do not say")
    add("--config", metavar="FILE", help="configuration to repeat the run with (default: that of its command line)")
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where records go (default: results/)")
    add("--replace", action="store_true", help="replace other records of the same name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
