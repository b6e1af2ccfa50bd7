"""The pages that are made from the schema and the configurations are up to date and say what they should."""

from __future__ import annotations

import pytest

from common.yaml_files import read_yaml
from engine.schema import leaves
from tests.documents import REPOSITORY
from tools import write_pages
from tools.write_pages import BENCHMARKS, Recipe, pages


@pytest.fixture(scope="module")
def made():
    """The pages as they would be written, by name."""
    return {path.name: (path, text) for path, text in pages().items()}


@pytest.mark.parametrize("name", ["configuration.md", "recipes.md"])
def test_the_page_is_up_to_date(made, name):
    path, text = made[name]
    assert path.read_text(encoding="utf-8") == text, "run python tools/write_pages.py"


@pytest.mark.parametrize("word", ["--help", "--halp"])
def test_only_the_bare_command_writes(word, monkeypatch, capsys):
    monkeypatch.setattr(write_pages, "pages", lambda: pytest.fail("pages are made"))
    if word == "--help":
        with pytest.raises(SystemExit) as end:
            write_pages.main([word])
        assert end.value.code == 0
        assert "docs/recipes.md" in capsys.readouterr().out
    else:
        assert write_pages.main([word]) == 2
        assert capsys.readouterr().err.startswith(
            "tools/write_pages.py: unknown option --halp (did you mean '--help'?)"
        )


def test_every_setting_has_a_row():
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    for key, leaf in leaves().items():
        assert f"| `{key}` | {leaf.requirement} | " in page


def test_every_published_encoder_has_a_row_for_each_benchmark(made):
    page = made["recipes.md"][1]
    rows = [
        line.split(" | ")[:2]
        for line in page.partition("## Where those of the CSRE paper's benchmarks equal")[2].splitlines()
    ]
    published = read_yaml(REPOSITORY / "docs" / "published_recipes.yaml")
    for encoder, facts in published.items():
        benchmarks = facts["settings"] if encoder == "hcn64" else BENCHMARKS
        for benchmark in benchmarks:
            assert rows.count([f"| {benchmark}", encoder.replace("+csre", " + CSRE")]) == 1


def test_published_settings_are_settings():
    known = leaves()
    for facts in read_yaml(REPOSITORY / "docs" / "published_recipes.yaml").values():
        for settings in facts["settings"].values():
            keys = [key for key, _ in write_pages._dotted(settings)]
            assert all(key in known or key.startswith("model.options.") for key in keys)


def test_a_difference_is_shown_with_its_reason_and_one_without_is_an_error():
    recipe = Recipe("nw-ucla", "ctrgcn", {"optim.lr": 0.05, "seed": 1, **dict.fromkeys(write_pages.NAMES)})
    recipe.settings.update({"optim.lr": 0.05, "seed": 1, "optim.name": "sgd", "optim.decay": 1.0})
    facts = {"settings": {"nw-ucla": {"optim": {"lr": 0.1}, "seed": 1}}}
    with pytest.raises(KeyError):
        write_pages._comparison(recipe, facts)
    row = write_pages._comparison(recipe, facts | {"reasons": {"optim.lr": "half the batch"}})
    assert row.startswith("| nw-ucla | ctrgcn | seed | rate (0.1 there, 0.05 here): half the batch | optimiser")
