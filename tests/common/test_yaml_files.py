"""The strict YAML reader: what it takes as people mean it, and what it refuses in one line."""

from __future__ import annotations

import pytest

from common.yaml_files import YamlError, read_yaml


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("lr: 1e-3", {"lr": 0.001}),
        ("name: 2024-13-01", {"name": "2024-13-01"}),
        ("name: 2024-01-13 10:20:30", {"name": "2024-01-13 10:20:30"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}", {"a": {"b": 1}, "c": {"b": 2}}),
        ("amp: off\nclasses: [yes, no, on]", {"amp": "off", "classes": ["yes", "no", "on"]}),
        ("a: true\nb: False", {"a": True, "b": False}),
        ("", None),
    ],
)
def test_content(tmp_path, text, content):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert read_yaml(path) == content


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "line 3.*'a' is there more than once"),
        ("a: [", "line"),
        ("a: &x [*x]", "levels deep|recursive"),
        ("[" * 5000, "not usable"),
        ("a: " + "[" * 30 + "]" * 30, "levels deep"),
        (LAUGHS, "values"),
        (MERGED, "values"),
        ("a: !!bool maybe", "not usable"),
        ("a: !!timestamp noon", "not usable"),
        ("a: !!int ''", "not usable"),
        ("? [a, b]\n: 1", "one word"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("x" * 1_000_001, "larger"),
    ],
    ids=[
        *("twice", "syntax", "recursive", "thousands of levels", "deep", "aliases", "merges"),
        *("truth value", "time", "empty integer", "key", "code", "large"),
    ],
)
def test_refused_in_one_line(tmp_path, text, reason):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(YamlError, match=reason) as refusal:
        read_yaml(path)
    assert "\n" not in str(refusal.value)
    assert "file.yaml" in str(refusal.value)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "ctrgcn_joint.yaml").touch()
    with pytest.raises(YamlError, match=r"did you mean 'ctrgcn_joint.yaml'"):
        read_yaml(tmp_path / "ctrgcn_jiont.yaml")
