"""Configuration: inheritance, overrides, origins, and one clear line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import differing_keys, resolve
from engine.errors import ConfigError
from engine.schema import RunConfig, flatten, instantiate, leaves

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "config/nw-ucla/ctrgcn_csre_joint.yaml"


@pytest.fixture
def write(tmp_path: Path):
    def write_file(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


def config_of(path: Path, *overrides: str) -> RunConfig:
    resolved = resolve(["--config", str(path), *overrides])
    assert resolved is not None
    return resolved.config


def test_later_layers_win_and_every_value_knows_its_origin(write):
    write("base.yaml", "optim: {lr: 0.5, epochs: 7}\ncsre: {temperature: 1.0}\n")
    write("other.yaml", "optim: {lr: 0.25}\n")
    file = write("mine.yaml", "inherits: [base.yaml, other.yaml]\noptim: {epochs: 9}\n")
    resolved = resolve(["--config", str(file), "--csre.temperature", "0.5"])
    assert resolved is not None
    config, origins = resolved.config, resolved.origins
    assert (config.optim.lr, config.optim.epochs, config.csre.temperature) == (0.25, 9, 0.5)
    assert origins["optim.lr"].endswith("other.yaml")
    assert origins["optim.epochs"].endswith("mine.yaml")
    assert origins["csre.temperature"] == "command line"
    assert origins["optim.momentum"] == "default"


def test_lists_are_replaced_and_mappings_merged(write):
    write("base.yaml", "optim: {milestones: [1, 2, 3]}\nmodel: {options: {a: 1, b: {c: 2}}}\n")
    file = write("mine.yaml", "inherits: base.yaml\noptim: {milestones: [9]}\nmodel: {options: {b: {d: 3}, e: 4}}\n")
    config = config_of(file)
    assert config.optim.milestones == [9]
    assert config.model.options == {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}


def test_null_deletes_what_was_inherited(write):
    write("base.yaml", "optim: {lr: 0.5}\ncsre: {enabled: true, temperature: 1.0}\nmodel: {options: {a: 1, b: 2}}\n")
    file = write("mine.yaml", "inherits: base.yaml\noptim: {lr: null}\ncsre: null\nmodel: {options: {a: null}}\n")
    config = config_of(file)
    assert config.optim.lr == leaves()["optim.lr"].default
    assert config.csre == RunConfig().csre
    assert config.model.options == {"b": 2}


def test_numbers_in_exponent_form_are_numbers(write):
    assert config_of(write("mine.yaml", "optim: {lr: 1e-3, weight_decay: 5e-4}\n")).optim.lr == 1e-3


def test_command_line_reaches_every_kind_of_value():
    config = config_of(
        EXAMPLE,
        *("--data.stream", "bone", "--optim.epochs=3", "--csre.branches", "[global]", "--data.window", "40"),
        *("--optim.milestones", "[2,4]", "--model.options.dropout", "0.25", "--optim.nesterov", "false"),
        *("--optim.clip_norm", "0.5", "--seed", "7", "--work_dir", "elsewhere", "--device", "cpu"),
    )
    assert (config.data.stream, config.optim.epochs, config.csre.branches) == ("bone", 3, ["global"])
    assert (config.optim.milestones, config.optim.nesterov, config.data.window) == ([2, 4], False, 40)
    assert config.model.options == {"dropout": 0.25}
    assert (config.optim.clip_norm, config.seed, config.work_dir, config.device) == (0.5, 7, "elsewhere", "cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {lrr: 1}", ["optim.lrr", "unknown key", "did you mean 'optim.lr'"]),
        ("temperature: 1", ["temperature", "unknown key", "csre.temperature"]),
        ("optim: 3", ["optim", "section"]),
        ("optim: {lr: {a: 1}}", ["optim.lr.a", "unknown key", "'optim.lr'"]),
        ("optim: {lr: fast}", ["optim.lr", "must be a number > 0", "'fast'"]),
        ("optim: {epochs: 2.5}", ["optim.epochs", "must be an integer >= 1", "2.5"]),
        ("optim: {batch_size: true}", ["optim.batch_size", "must be an integer >= 1", "True"]),
        ("optim: {milestones: [1, x]}", ["optim.milestones", "must be a list of integers >= 0", "such as 10,20"]),
        ("csre: {enabled: 3}", ["csre.enabled", "must be true or false"]),
        ("name: 5", ["name", "must be text", "5"]),
        ("data: {stream: bonne}", ["data.stream", "joint_motion", "did you mean 'bone'"]),
        ("model: {name: ctrgnc}", ["model.name", "ctrgnc", "ctrgcn"]),
        ("data: {benchmark: nwucla}", ["data.benchmark", "nwucla", "nw-ucla"]),
        ("csre: {temperature: 0}", ["csre.temperature", "must be a number > 0", "got 0"]),
        ("csre: {temperature: -0.5}", ["csre.temperature", "> 0"]),
        ("csre: {temperature: .inf}", ["csre.temperature", "inf"]),
        ("csre: {temperature: .nan}", ["csre.temperature", "nan"]),
        ("csre: {temperature: 1" + "0" * 400 + "}", ["csre.temperature", "must be a number > 0"]),
        ("csre: {positives: {hard: -1}}", ["csre.positives.hard", "must be an integer >= 0", "-1"]),
        ("csre: {negatives: {hard: 0, random: 0}}", ["csre.negatives.hard", "nothing to contrast"]),
        ("csre: {branches: []}", ["csre.branches", "at least one"]),
        ("data: {window: 100000000}", ["data.window", "must be an integer >= 1 and < 10000 or null"]),
        ("csre: {dim: 100000000}", ["csre.dim", "must be an integer >= 1 and < 65536"]),
        ("optim: {batch_size: 0}", ["optim.batch_size", "must be an integer >= 1", "got 0"]),
        ("optim: {milestones: [5, 3]}", ["optim.milestones", "increasing"]),
        ("optim: {ema_decay: 1}", ["optim.ema_decay", "must be a number > 0 and < 1 or null"]),
        ("weights: nowhere.pt", ["weights", "no file nowhere.pt"]),
        ("name: a/b", ["name", "a/b"]),
        ("name: ..", ["name", "'..'"]),
        ("name: run.old-3", ["name", ".old-"]),
        ("csre: {bank: {capacity: 1}}", ["csre.bank.capacity", "must be an integer >= 2 or null"]),
        ("csre: {denominator: split, repeated_negatives: once}", ["csre.repeated_negatives", "split"]),
        ("data: {path: nowhere}", ["data.path", "nowhere"]),
        ("optim: {lr: 1, lr: 2}", ["line 1", "'lr' is there more than once"]),
        ("optim: {lr: 1}\noptim.lr: 2", ["optim.lr", "is there more than once; keep one"]),
        ("optim: {amp: on}", ["optim.amp", "must be one of", "'on'"]),
        ("optim: [1", ["line", "not valid YAML"]),
        ("- 1", ["key: value"]),
        ("inherits: nowhere.yaml", ["inherits", "no such file", "nowhere.yaml"]),
        ("inherits: {a: 1}", ["inherits", "file name"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line_naming_file_key_and_reason(write, text, said):
    file = write("mine.yaml", text + "\n")
    with pytest.raises(ConfigError) as caught:
        config_of(file)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in [str(file), *said]), message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optim.lrr", "1"], ["optim.lrr", "did you mean 'optim.lr'"]),
        (["--csre.temperature", "0"], ["csre.temperature", "> 0"]),
        (["--csre.temperature=warm"], ["csre.temperature", "must be a number > 0, got 'warm'"]),
        (["--data.stream", "jiont"], ["data.stream", "did you mean 'joint'"]),
        (["--phase", "tset"], ["phase", "did you mean 'test'"]),
        (["--weights", "nowhere.pt"], ["weights", "no file nowhere.pt"]),
        (["--resume", "nowhere.pt"], ["resume", "no file nowhere.pt", "auto"]),
        (["stray"], ["stray"]),
        (["--optim.lr"], ["optim.lr", "a value is missing", "--optim.lr VALUE"]),
        (["--batch-size", "8"], ["batch_size", "did you mean 'optim.batch_size'"]),
        (["--optim.milestones", "10;20"], ["optim.milestones", "such as 10,20 or [10, 20]"]),
        (["--optim.milestones", "[1"], ["optim.milestones", "not valid YAML"]),
        (["--optim", "3"], ["optim", "section"]),
        (["--name", "t{csre.temprature}"], ["name", "csre.temprature", "did you mean 'csre.temperature'"]),
    ],
)
def test_a_mistake_on_the_command_line_names_key_and_reason(words, said):
    with pytest.raises(ConfigError) as caught:
        config_of(EXAMPLE, *words)
    message = str(caught.value)
    assert message.startswith("command line: ")
    assert "\n" not in message
    assert all(part in message for part in said), message


def test_a_mistake_in_an_overridden_layer_is_still_reported_with_its_file(write):
    base = write("base.yaml", "data: {window: long}\n")
    file = write("mine.yaml", "inherits: base.yaml\ndata: {window: 64}\n")
    with pytest.raises(ConfigError, match="window: must be an integer >= 1") as caught:
        config_of(file)
    assert str(base) in str(caught.value)


@pytest.mark.parametrize("order", ["[scalar.yaml, mapping.yaml]", "[mapping.yaml, scalar.yaml]"])
def test_two_files_that_disagree_on_a_type_are_both_named(write, order):
    scalar = write("scalar.yaml", "model: {options: {a: 3}}\n")
    mapping = write("mapping.yaml", "model: {options: {a: {b: 1}}}\n")
    with pytest.raises(ConfigError, match=r"model\.options\.a") as caught:
        config_of(write("mine.yaml", f"inherits: {order}\n"))
    assert str(scalar) in str(caught.value)
    assert str(mapping) in str(caught.value)


def test_a_circle_of_inheritance_is_an_error(write):
    write("a.yaml", "inherits: b.yaml\n")
    write("b.yaml", "inherits: c.yaml\n")
    with pytest.raises(ConfigError, match="circle") as caught:
        config_of(write("c.yaml", "inherits: a.yaml\n"))
    assert all(name in str(caught.value) for name in ("a.yaml", "b.yaml", "c.yaml"))


def test_a_diamond_of_inheritance_is_fine(write):
    write("base.yaml", "optim: {lr: 0.5}\n")
    write("a.yaml", "inherits: base.yaml\n")
    write("b.yaml", "inherits: base.yaml\n")
    assert config_of(write("mine.yaml", "inherits: [a.yaml, b.yaml]\n")).optim.lr == 0.5


def test_a_missing_configuration_names_the_nearest_file():
    with pytest.raises(ConfigError, match=r"did you mean 'ctrgcn_csre_joint\.yaml'"):
        resolve(["--config", str(EXAMPLE.with_name("ctrgcn_csre_jiont.yaml"))])


def test_print_config_prints_what_reproduces_the_run(capsys, write):
    words = ["--config", str(EXAMPLE), "--csre.temperature", "0.5", "--model.options.dropout", "0.5"]
    assert resolve([*words, "--print-config"]) is None
    printed = capsys.readouterr().out
    assert "command line" in printed
    again = config_of(write("again.yaml", printed))
    assert again == config_of(EXAMPLE, *words[2:])


def test_help_has_every_key_with_its_kind_default_and_range(capsys):
    assert resolve(["--help"]) is None
    printed = " ".join(capsys.readouterr().out.split())
    for key, leaf in leaves().items():
        assert f"--{key} " in printed
        assert leaf.help in printed, key
    assert "--optim.amp " in printed
    assert "--optim.epochs INTEGER epochs to train" in printed
    assert "(default: 65; >= 1)" in printed
    assert "(default: [35, 55]; >= 0)" in printed
    assert "Literal" not in printed


def test_help_has_each_heading_once_in_lines_that_fit(capsys):
    resolve(["--help"])
    lines = capsys.readouterr().out.splitlines()
    headings = [line.split(":")[0] for line in lines if line and not line.startswith(" ")]
    sections = ["run", "data", "model", "csre", "csre.positives", "csre.negatives", "csre.bank", "optim", "log"]
    assert [heading for heading in headings if heading in sections] == sections
    assert max(map(len, lines)) <= 120


def test_later_files_of_the_command_line_are_merged_over_earlier_ones(write):
    first = write("first.yaml", "optim: {lr: 0.5, epochs: 7}\nmodel: {options: {a: 1}}\n")
    second = write("second.yaml", "optim: {epochs: 9}\nmodel: {options: {b: 2}}\n")
    resolved = resolve(["--config", str(first), "--seed", "3", "--config", str(second)])
    assert (resolved.config.optim.lr, resolved.config.optim.epochs, resolved.config.seed) == (0.5, 9, 3)
    assert resolved.config.model.options == {"a": 1, "b": 2}
    assert resolved.origins["optim.lr"] == str(first)
    assert resolved.config.name == "first+second"


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--optim.milestones", "10,20"], "optim.milestones", [10, 20]),
        (["--optim.milestones", "10"], "optim.milestones", [10]),
        (["--optim.milestones=[10, 20]"], "optim.milestones", [10, 20]),
        (["--csre.branches", "spatial,global"], "csre.branches", ["spatial", "global"]),
        (["--work-dir", "x"], "work_dir", "x"),
        (["--optim.batch-size", "8"], "optim.batch_size", 8),
        (["--allow-mismatch"], "allow_mismatch", True),
        (["--deterministic", "--seed", "4"], "deterministic", True),
        (["--deterministic", "false"], "deterministic", False),
        (["--name", "2024"], "name", "2024"),
        (["--data.window", "null"], "data.window", None),
        (["--log.checkpoint_minutes", "null"], "log.checkpoint_minutes", None),
        (["--optim.lr", "1e-3"], "optim.lr", 1e-3),
        (["--optim.amp", "off"], "optim.amp", "off"),
        (["--model.options", "{dropout: 0.5}"], "model.options", {"dropout": 0.5}),
    ],
)
def test_words_of_the_command_line(words, key, value):
    assert flatten(config_of(EXAMPLE, *words))[key] == value


def test_a_choice_named_off_is_a_word_in_a_file(write):
    assert config_of(write("mine.yaml", "optim: {amp: off}\n")).optim.amp == "off"


@pytest.mark.parametrize(
    ("file", "words", "name"),
    [
        ("ctrgcn_csre_joint", [], "ctrgcn_csre_joint"),
        ("ctrgcn_csre_joint", ["--data.stream", "bone"], "ctrgcn_csre_bone"),
        ("ctrgcn_csre_joint", ["--data.stream", "joint_motion"], "ctrgcn_csre_joint_motion"),
        ("joint_study", ["--data.stream", "bone"], "bone_study"),
        ("jointly", ["--data.stream", "bone"], "jointly_bone"),
        ("mine", [], "mine"),
        ("mine", ["--data.stream", "joint"], "mine"),
        ("mine", ["--data.stream", "bone_motion"], "mine_bone_motion"),
        ("mine", ["--name", "other", "--data.stream", "bone"], "other"),
        ("mine", ["--name", "s{seed}_t{csre.temperature}", "--csre.temperature", "0.5"], "s1_t0.5"),
        ("a_joint", ["--name", "{name}_s{seed}", "--data.stream", "bone", "--seed", "3"], "a_bone_s3"),
        ("mine", ["--name", "b_{csre.branches}", "--csre.branches", "spatial,temporal"], "b_spatial+temporal"),
    ],
)
def test_the_name_of_a_run(write, file, words, name):
    assert config_of(write(f"{file}.yaml", "data: {stream: joint}\n"), *words).name == name


@pytest.mark.parametrize("stream", ["bone", "bone_motion"])
def test_a_stream_with_a_recipe_of_its_own_is_not_trained_with_that_of_another(stream):
    folder = REPOSITORY / "config/nw-ucla"
    with pytest.raises(
        ConfigError, match=rf"data\.stream: {stream} has a recipe of its own; use .*hyperformer_bone\.yaml"
    ):
        config_of(folder / "hyperformer_joint.yaml", "--data.stream", stream)
    assert config_of(folder / "hyperformer_bone.yaml", "--data.stream", stream).name == f"hyperformer_{stream}"
    assert (
        config_of(folder / "hyperformer_joint.yaml", "--data.stream", "joint_motion").name == "hyperformer_joint_motion"
    )


def test_the_stream_is_kept_in_step_in_the_name_of_several_files(write):
    first, second = write("net_joint.yaml", ""), write("released.yaml", "optim: {lr: 0.5}\n")
    resolved = resolve(["--config", str(first), "--config", str(second), "--data.stream", "bone"])
    assert resolved.config.name == "net_bone+released"


def test_a_test_takes_the_settings_of_the_training(write, tmp_path):
    """`--phase test` needs no override of the training again; the command line still wins."""
    file = write("mine_joint.yaml", "model: {options: {a: 1}}\n")
    words = ["--config", str(file), "--work_dir", str(tmp_path / "runs"), "--data.benchmark", "demo"]
    overrides = ["--data.path", "/clips", "--data.window", "20", "--optim.lr", "0.5", "--model.options", "{b: 2}"]
    trained = resolve([*words, *overrides])
    folder = tmp_path / "runs" / "demo" / "mine_joint"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(trained.as_yaml())

    tested = resolve([*words, "--phase", "test"])
    assert tested.config.phase == "test"
    assert differing_keys(flatten(trained.config), tested.config) == []
    assert tested.config.data.path == "/clips"
    assert tested.origins["data.window"] == str(folder / "config.yaml")
    assert resolve([*words, "--phase", "test", "--data.window", "9"]).config.data.window == 9
    # A training, and weights that are not those of the run, take nothing from the folder.
    assert resolve(words).config.data.window is None
    assert resolve([*words, "--phase", "test", "--weights", str(file)]).config.data.window is None

    by_folder = resolve(["--config", str(folder), "--phase", "test"])
    assert flatten(by_folder.config) == flatten(tested.config)


def test_yaml_anchors_can_be_merged(write):
    file = write("mine.yaml", "model: {options: {a: &x {p: 1}, b: {<<: *x, q: 2}}}\n")
    assert config_of(file).model.options["b"] == {"p": 1, "q": 2}


def test_flatten_and_instantiate_are_inverse():
    values = {key: leaf.default for key, leaf in leaves().items()}
    assert flatten(instantiate(values)) == values


def test_differing_keys_ignores_where_and_how_a_run_executes():
    stored = flatten(config_of(EXAMPLE))
    assert differing_keys(stored, config_of(EXAMPLE, "--device", "cpu", "--work_dir", "x")) == []
    assert differing_keys(stored, config_of(EXAMPLE, "--csre.temperature", "0.5")) == ["csre.temperature: 0.8 -> 0.5"]


def test_differing_keys_ignores_the_settings_of_a_head_that_is_off():
    words = ("--acl.memory", "1024", "--csre.temperature", "0.5")
    plain = EXAMPLE.with_name("ctrgcn_joint.yaml")
    assert differing_keys(flatten(config_of(plain)), config_of(plain, *words)) == []
    for stored, now in ((plain, EXAMPLE), (EXAMPLE, plain)):
        found = differing_keys(flatten(config_of(stored)), config_of(now, *words))
        assert found == [f"csre.enabled: {stored == EXAMPLE} -> {now == EXAMPLE}"]


def test_mistakes_are_reported_before_torch_is_imported():
    """The front door answers a typo with one line and exit code 2, without the wait for torch."""
    code = (
        "import sys, main\n"
        "status = main.main(['--config', sys.argv[1], '--optim.lrr', '1'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "optim.lr" in done.stderr
    assert "Traceback" not in done.stderr
