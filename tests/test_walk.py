"""docs/walk.md: its script runs from the first line to the last and prints what the page says."""

from __future__ import annotations

import re

from PIL import Image

from tests.documents import code_block, read

PAGE = read("docs/walk.md")


def test_the_walk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(script, "docs/walk.md", "exec"), {"__name__": "walk"})
    printed = capsys.readouterr().out
    assert code_block(PAGE, "predicted", "text") in printed
    assert (tmp_path / "work_dir/gestures/run/report.html").exists()
    with Image.open(tmp_path / "wave.gif") as picture:
        assert picture.n_frames >= 20
