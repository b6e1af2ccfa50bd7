"""The encoders by name. Holds paths of classes, not classes: nothing is imported before an encoder is built."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from common.classes import import_class
from common.words import did_you_mean
from graph import Skeleton
from model.errors import EncoderError, UnknownEncoderError

if TYPE_CHECKING:
    from model.encoder import Encoder

_targets: dict[str, str | type[Encoder]] = {
    "agcn": "model.agcn:AGCN",
    "blockgcn": "model.blockgcn:BlockGCN",
    "ctrgcn": "model.ctrgcn:CTRGCN",
    "dcgcn": "model.dcgcn:DCGCN",
    "hcn": "model.hcn:HCN",
    "hdgcn": "model.hdgcn:HDGCN",
    "hyperformer": "model.hyperformer:Hyperformer",
    "hypergcn": "model.hypergcn:HyperGCN",
    "infogcn": "model.infogcn:InfoGCN",
    "shiftgcn": "model.shiftgcn:ShiftGCN",
    "skateformer": "model.skateformer:SkateFormer",
    "stgcn": "model.stgcn:STGCN",
    "stgcnpp": "model.stgcnpp:STGCNPP",
    "tacnn": "model.tacnn:TaCNN",
}

# What every encoder is built from; whatever else its constructor takes is an option of that encoder.
_COMMON = ("skeleton", "num_classes", "num_persons", "window")


def list_encoders() -> list[str]:
    """The names of all registered encoders, sorted. Does not import torch."""
    return sorted(_targets)


def register_encoder(name: str, target: str | type[Encoder]) -> None:
    """Make an encoder of your own known by name: its class, or where to find it as `package.module:Class`.

    Raises EncoderError when the name already stands for something else.
    """
    if _targets.setdefault(name, target) != target:
        raise EncoderError(f"encoder {name!r} is registered already ({_targets[name]}); choose another name")


def build_encoder(
    name: str, *, skeleton: Skeleton, num_classes: int, num_persons: int = 2, window: int = 64, **options: Any
) -> Encoder:
    """Build the encoder of that name, with freshly initialised weights.

    Args:
        name: a name of list_encoders(), or `package.module:Class` for a class that is not registered.
        skeleton: the joints V of the clips.
        num_classes: K.
        num_persons: M, the length of the person axis.
        window: T, the frames of a clip.
        options: the encoder's own options; its class documents them.

    Raises UnknownEncoderError for an unknown name, EncoderError for a name that is not a string, a class that cannot be
    used, an unknown option or a value out of range.
    """
    encoder_class = _find_class(name)
    _check_options(name, encoder_class, options)
    try:
        return encoder_class(
            skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
        )
    except EncoderError:
        raise
    except (TypeError, ValueError) as error:  # a class that does not check its options itself
        given = ", ".join(f"{option}={value!r}" for option, value in options.items()) or "none"
        raise EncoderError(f"encoder {name!r} cannot be built with the options {given}: {error}") from error


def option_defaults(name: str) -> dict[str, Any]:
    """The encoder's own options that have a default, with it. Raises EncoderError as `build_encoder` does."""
    parameters = inspect.signature(_find_class(name)).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.name not in _COMMON and parameter.default is not inspect.Parameter.empty
    }


def fitting_window(name: str, frames: int) -> int:
    """The shortest window of at least so many frames that the encoder takes. Raises EncoderError as `build_encoder`."""
    multiple = _find_class(name).frame_multiple
    return -(-frames // multiple) * multiple


def _find_class(name: str) -> type[Encoder]:
    if not isinstance(name, str):
        raise EncoderError(
            f"encoder: {name!r} is not a name; use one of {', '.join(list_encoders())}, or package.module:Class"
        )
    target = _targets.get(name, name)
    if isinstance(target, str):
        if ":" not in target:
            raise UnknownEncoderError(
                f"encoder {name!r} is unknown{did_you_mean(name, list_encoders())}; known are "
                f"{', '.join(list_encoders())}, or give package.module:Class"
            )
        target = import_class(target, "encoder", EncoderError)
    from model.encoder import Encoder  # imports torch, so only when an encoder is needed

    if not (isinstance(target, type) and issubclass(target, Encoder)):
        raise EncoderError(f"encoder {name!r}: {target!r} is not a subclass of model.Encoder; derive the class from it")
    return target


def _check_options(name: str, encoder_class: type[Encoder], options: dict[str, Any]) -> None:
    parameters = inspect.signature(encoder_class).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return  # the class sorts its options out itself
    valid = {parameter.name: parameter.default for parameter in parameters if parameter.name not in _COMMON}
    for option in options:
        if option not in valid:
            known = ", ".join(f"{key}={default}" for key, default in valid.items()) or "none"
            raise EncoderError(
                f"encoder {name!r} has no option {option!r}{did_you_mean(option, valid)}; its options: {known}"
            )
    for option, default in valid.items():
        if default is inspect.Parameter.empty and option not in options:
            raise EncoderError(f"encoder {name!r} needs the option {option!r}; give it a value")
