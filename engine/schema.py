"""The settings of a run: these dataclasses are the only schema.

YAML files, command-line overrides, `--help`, the checks and the resolved configuration in the run folder all derive
from the fields below: their names, types, defaults and one-line helps. Nothing here imports torch, so that a typo is
reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from sys import float_info
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from common.options import option
from feeders.benchmarks import BENCHMARKS
from feeders.choices import OnBadClip, Origin, Placement, SecondPerson, Stream, Variant
from heads.acl_options import ACLOptions
from heads.csre_options import CSREOptions
from heads.fr_head_options import FRHeadOptions
from heads.skeleton_gcl_options import SkeletonGCLOptions


@dataclass
class DataConfig:
    """Which clips, and what of them the encoder sees."""

    benchmark: str = option("nw-ucla", f"data set and protocol: {', '.join(BENCHMARKS)}, or the YAML file of your own")
    path: str | None = option(None, "folder or file of the clips; null: the benchmark's default place under data/")
    stream: Stream = option("joint", "input stream")
    variant: Variant = option(
        "plain", "centred: joint and bone streams relative to the skeleton's root joint, which keeps its trajectory"
    )
    window: int | None = option(
        None, "frames per clip after resampling; null: the benchmark's", at_least=1, below=10_000
    )
    repeat: int | None = option(
        None, "visits of each training clip per epoch, each augmented anew; null: the benchmark's", at_least=1
    )
    second_person: SecondPerson | None = option(
        None, "second person of a lone actor: a copy of the first, or zeros; null: the benchmark's (copy for ntu120)"
    )
    rotation: float | None = option(
        None, "largest random rotation about each axis in radians, 0: none; null: the benchmark's", at_least=0
    )
    origin: Origin | None = option(
        None, "one origin per clip, or the first person's centre in every frame; null: the benchmark's"
    )
    bone_scale: float = option(
        0.0, "in training, bones get longer or shorter by up to this share (FR-Head: 0.2); 0: off", at_least=0, below=1
    )
    validation: float = option(
        0.0,
        "share of the training clips held out, by subject where known; the best epoch is then chosen on them",
        at_least=0,
        below=1,
    )
    on_bad_clip: OnBadClip = option("error", "clips that cannot be read: stop with an error, or skip them")
    placement: Placement = option(
        "auto", "memory that holds the clips; auto: the device if there is plenty of room, else the host"
    )


@dataclass
class ModelConfig:
    """The encoder."""

    name: str = option("ctrgcn", "a registered encoder, or your own as package.module:Class")
    options: dict[str, Any] = option({}, "options of that encoder, for instance --model.options.dropout 0.1")


@dataclass
class HeadConfig:
    """A training head of your own, beside the encoder; see docs/your_own_head.md."""

    name: str | None = option(None, "its class, as package.module:Class; null: none")
    options: dict[str, Any] = option({}, "what its constructor takes beside encoder and labels")


@dataclass
class OptimConfig:
    """Optimiser, learning-rate schedule and precision."""

    name: Literal["sgd", "adam", "adamw"] = option("sgd", "optimiser")
    lr: float = option(0.1, "base learning rate, for the batch size as configured", above=0)
    momentum: float = option(0.9, "momentum of sgd", at_least=0)
    nesterov: bool = option(True, "Nesterov momentum for sgd")
    weight_decay: float = option(
        4e-4, "weight decay, on every parameter; an encoder may have factors for some (docs/encoders.md)", at_least=0
    )
    batch_size: int = option(
        64, "clips per training step, over all processes; an epoch's last incomplete batch is dropped", at_least=1
    )
    test_batch_size: int = option(
        64,
        "clips per evaluation step; scores depend on it only with BlockGCN's topologies published and matched",
        at_least=1,
    )
    epochs: int = option(65, "epochs to train; may be raised later to continue a finished run", at_least=1)
    patience: int | None = option(
        None,
        "training ends after so many epochs without a better one on the clips of data.validation; null: never",
        at_least=1,
    )
    warmup_epochs: int = option(5, "epochs over which the learning rate rises linearly to optim.lr", at_least=0)
    milestones: list[int] = option(
        [35, 55], "epochs, counted from 0, at which the learning rate is multiplied by gamma", at_least=0
    )
    gamma: float = option(0.1, "factor on the learning rate at each milestone", above=0)
    decay: float = option(1.0, "factor on the learning rate after every epoch", above=0)
    cosine: float | None = option(
        None,
        "fraction of optim.lr that the rate falls to at the end, on half a cosine after the warm-up, step by step; "
        "null: no cosine; needs optim.milestones []",
        at_least=0,
        below=1,
    )
    clip_norm: float | None = option(None, "largest gradient norm; null: no clipping", above=0)
    amp: Literal["auto", "off", "bf16", "fp16"] = option(
        "auto",
        "mixed precision of the encoder; auto: optim.published_amp on CUDA, off on the CPU, where bf16 is slow without "
        "AVX-512",
    )
    published_amp: Literal["off", "bf16", "fp16"] = option(
        "off", "mixed precision that the authors of the recipe trained in; optim.amp auto uses it"
    )
    matmul: Literal["highest", "high"] = option(
        "highest",
        "float32 matrix products and convolutions on CUDA; high: in TF32, also where a memory bank's rows are ranked",
    )
    ema_decay: float | None = option(
        None,
        "decay of an exponential moving average of the weights, which is then the one tested; null: none",
        above=0,
        below=1,
    )
    freeze: list[str] = option(
        [],
        "parts of the encoder that stay as they start, batch-normalisation statistics included, such as "
        "[data_bn, blocks.l1, blocks.l2]; for fine-tuning with --weights",
    )
    sync_batchnorm: bool = option(
        False, "with several processes: batch-normalisation statistics over the clips of all of them"
    )
    on_non_finite: Literal["stop", "skip"] = option(
        "stop", "a step whose loss or gradients are NaN or infinite: stop the run, or skip the step with a warning"
    )
    max_skips: int = option(
        20, "skipped steps in a row (fp16 overflows included) after which the run stops", at_least=1
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Key and reason of each value that does not go with the others."""
        if self.nesterov and self.name == "sgd" and self.momentum == 0:
            yield "nesterov", "needs optim.momentum > 0; set optim.nesterov to false"
        if self.cosine is not None and self.milestones:
            yield "cosine", "goes with no milestones; set optim.milestones to []"
        if self.milestones != sorted(set(self.milestones)):
            yield "milestones", f"must be in increasing order, got {self.milestones}"


@dataclass
class LogConfig:
    """Tests, checkpoints, logs and figures."""

    every_steps: int = option(20, "steps between two lines of the step log", at_least=1)
    test_every: int = option(
        1,
        "epochs between two tests; the last epoch is always tested, and `best` is the best of the tested ones",
        at_least=1,
    )
    keep_checkpoints: int = option(2, "newest epoch checkpoints to keep, beside best", at_least=2)
    checkpoint_steps: int | None = option(
        None, "also write a checkpoint every N steps within an epoch; null: never", at_least=1
    )
    checkpoint_minutes: float | None = option(
        15.0, "also write a checkpoint within an epoch when the newest is N minutes old; null: never", above=0
    )
    figures: bool = option(True, "draw figures at the end of the run; their data are written in any case")
    tsne_clips: int = option(1000, "test clips in the t-SNE figure; 0: no figure", at_least=0)


@dataclass
class RunConfig:
    """Which run, where it is kept, and on what it executes."""

    name: str | None = option(
        None, "name of the run folder, may hold settings: {name}_s{seed}; null: that of the configuration files"
    )
    phase: Literal["train", "test"] = option("train", "train, with tests on the way; or only test stored weights")
    weights: str | None = option(
        None,
        "weights to test or to start from: a checkpoint of this project, or one published by the encoder's authors",
    )
    resume: str = option(
        "auto", "auto: resume the run in its folder; never: set that run aside and start anew; or a checkpoint"
    )
    allow_mismatch: bool = option(False, "test --weights that were trained on another stream, variant or benchmark")
    work_dir: str = option("work_dir", "folder of all runs; this one's is <work_dir>/<benchmark>/<name>")
    seed: int = option(
        1, "seed of the initial weights, the order of the clips and the augmentation", at_least=0, below=2**32
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: cuda where there is one")
    deterministic: bool = option(False, "bit-identical repetition on a GPU too, somewhat slower (the CPU always is)")
    compile: bool = option(
        False, "torch.compile the encoder for training: minutes at the start, meant for long runs on a GPU"
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    csre: CSREOptions = field(default_factory=CSREOptions)
    fr_head: FRHeadOptions = field(default_factory=FRHeadOptions)
    skeleton_gcl: SkeletonGCLOptions = field(default_factory=SkeletonGCLOptions)
    acl: ACLOptions = field(default_factory=ACLOptions)
    head: HeadConfig = field(default_factory=HeadConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Key and reason of each value that does not go with another section."""
        if self.optim.patience is not None and not self.data.validation:
            reason = (
                "needs data.validation > 0, or the test clips would decide when training ends; set that to 0.1, say"
            )
            yield "optim.patience", reason
        acl = self.acl
        if acl.enabled and acl.inter_weight and acl.count_epoch >= self.optim.epochs:
            reason = (
                f"classes are contrasted from epoch {acl.count_epoch + 1} on, after the last (optim.epochs "
                f"{self.optim.epochs}); lower it, or set acl.inter_weight to 0"
            )
            yield "acl.count_epoch", reason
        if acl.enabled and acl.memory < self.optim.batch_size:
            yield "acl.memory", f"must hold the clips of a step (optim.batch_size {self.optim.batch_size}); raise it"


# Keys that say where and how a run executes, not what it computes: they may differ between a run and its resumption,
# and between the streams of one ensemble.
EXECUTION_KEYS = frozenset(
    {
        "name",
        "phase",
        "weights",
        "resume",
        "allow_mismatch",
        "work_dir",
        "device",
        "deterministic",
        "compile",
        "data.path",
        "data.on_bad_clip",
        "data.placement",
        "optim.test_batch_size",
        "optim.matmul",
        "optim.on_non_finite",
        "optim.max_skips",
        "csre.bank.sharded",
        "skeleton_gcl.bank.sharded",
        "log.every_steps",
        "log.test_every",
        "log.keep_checkpoints",
        "log.checkpoint_steps",
        "log.checkpoint_minutes",
        "log.figures",
        "log.tsne_clips",
    }
)


class Leaf(NamedTuple):
    """One setting: type, default, help, bounds, and the docstring of the section that it stands in."""

    type: Any
    default: Any
    help: str
    section: str
    at_least: float | None
    above: float | None
    below: float | None

    @property
    def may_be_null(self) -> bool:
        """Whether `null` is a value of its own."""
        return type(None) in get_args(self.type)

    @property
    def is_mapping(self) -> bool:
        """Whether the setting is a mapping of free keys (as `model.options`)."""
        return get_origin(self.type) is dict

    @property
    def is_list(self) -> bool:
        """Whether the setting is a list."""
        return get_origin(self.type) is list

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the setting (or each item of it) admits; empty where it is not a choice."""
        return next((get_args(hint) for hint in _alternatives(self.type) if get_origin(hint) is Literal), ())

    @property
    def kind(self) -> type:
        """What the setting (or each item of it) is: bool, int, float, str (also for a choice) or dict."""
        hint = next(hint for hint in _alternatives(self.type) if hint is not type(None))
        return str if get_origin(hint) is Literal else get_origin(hint) or hint

    @property
    def range(self) -> str:
        """The bounds; empty where there are none."""
        bounds = {">=": self.at_least, ">": self.above, "<": self.below}
        return " and ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None)

    @property
    def requirement(self) -> str:
        """What a value must be, to follow `must be`: `an integer >= 1`, `one of sgd, adam, adamw`."""
        if self.choices:
            words = ", ".join(self.choices)
            text = f"a list of words from {words}, such as {self.choices[0]}" if self.is_list else f"one of {words}"
        elif self.is_list:
            items, example = {int: ("integers", "10,20 or [10, 20]"), str: ("names", "a,b or [a, b]")}[self.kind]
            text = f"a list of {items} {self.range}".rstrip() + f", such as {example}"
        else:
            names = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", dict: "a mapping"}
            text = f"{names[self.kind]} {self.range}".rstrip()
            text = text.replace("a finite number >", "a number >")
        return text + (" or null" if self.may_be_null else "")

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the right type, finite and within the bounds (each item, for a list)."""
        if value is None or self.is_list != isinstance(value, list):
            return value is None and self.may_be_null
        return all(self._accepts_item(item) for item in (value if self.is_list else [value]))

    def _accepts_item(self, item: Any) -> bool:
        if self.choices:
            return isinstance(item, str) and item in self.choices
        if self.kind not in (int, float):
            return isinstance(item, self.kind)
        return (
            isinstance(item, int | self.kind)
            and not isinstance(item, bool)
            and abs(item) <= float_info.max  # neither infinite nor NaN
            and (self.at_least is None or item >= self.at_least)
            and (self.above is None or item > self.above)
            and (self.below is None or item < self.below)
        )


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a hint unites, those of the items for a list."""
    if get_origin(hint) in (list, Union, UnionType):
        return tuple(part for item in get_args(hint) for part in _alternatives(item))
    return (hint,)


def leaves(schema: Any = RunConfig, prefix: str = "") -> dict[str, Leaf]:
    """All settings of a schema by dotted key, in the order of their declaration."""
    hints = get_type_hints(schema)
    found: dict[str, Leaf] = {}
    for item in fields(schema):
        key, hint = prefix + item.name, hints[item.name]
        if is_dataclass(hint):
            found |= leaves(hint, key + ".")
        else:
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            found[key] = Leaf(hint, default, section=schema.__doc__ or "", **item.metadata)
    return found


def contradictions(section: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and reason of each value that does not go with others of its section, where a section checks that."""
    for key, reason in section.contradictions() if hasattr(section, "contradictions") else ():
        yield prefix + key, reason
    for item in fields(section):
        if is_dataclass(value := getattr(section, item.name)):
            yield from contradictions(value, f"{prefix}{item.name}.")


def instantiate(values: dict[str, Any], schema: Any = RunConfig, prefix: str = "") -> Any:
    """Build the dataclasses from a value for every dotted key."""
    hints = get_type_hints(schema)
    return schema(
        **{
            item.name: instantiate(values, hints[item.name], f"{prefix}{item.name}.")
            if is_dataclass(hints[item.name])
            else values[prefix + item.name]
            for item in fields(schema)
        }
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The inverse of `instantiate`: every setting's value by dotted key."""
    values: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        values |= flatten(value, f"{prefix}{item.name}.") if is_dataclass(value) else {prefix + item.name: value}
    return values


def in_effect(values: dict[str, Any]) -> dict[str, Any]:
    """Of settings by dotted key those that say what a run computes: none of a head that is off or of the execution."""
    off = tuple(key.removesuffix("enabled") for key, value in values.items() if key.endswith(".enabled") and not value)
    return {
        key: value
        for key, value in values.items()
        if key not in EXECUTION_KEYS and (key.endswith(".enabled") or not key.startswith(off))
    }
