"""The training heads by the section of the configuration that switches them on. Imports no torch by itself.

A head of the project is one line here, its class, and its options (a dataclass with `enabled`) in `<head>_options.py`,
which the configuration's schema names as a section. A user's own head is named in the section `head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from common.classes import import_class
from heads.errors import HeadError

if TYPE_CHECKING:
    from torch import Tensor

    from heads.head import TrainingHead
    from model.encoder import Encoder

OWN = "head"
"""The section of a user's own head."""


class Registered(NamedTuple):
    """A head of the project: what tables of results call it, and its class as `package.module:Class`."""

    title: str
    target: str


HEADS = {
    "csre": Registered("CSRE", "heads.csre:CSREHead"),
    "fr_head": Registered("FR-Head", "heads.fr_head:FRHead"),
    "skeleton_gcl": Registered("SkeletonGCL", "heads.skeleton_gcl:SkeletonGCLHead"),
    "acl": Registered("ACLNet's losses", "heads.acl:ACLHead"),
}
"""By section, in the order in which they are built."""


def head_names(settings: Mapping[str, Any]) -> list[str]:
    """The heads that settings (by dotted key) switch on: their sections, for a user's own one the name of its class."""
    names = [name for name in HEADS if settings.get(f"{name}.enabled")]
    own = settings.get(f"{OWN}.name")
    return names if own is None else [*names, own.rpartition(":")[2]]


def title_of_head(name: str) -> str:
    """What tables call the head of a section, such as `CSRE`; a user's own has the name of its class."""
    return HEADS[name].title if name in HEADS else name


def build_heads(sections: Mapping[str, Any], encoder: Encoder, labels: Tensor) -> dict[str, TrainingHead]:
    """The heads that a configuration (its sections by name) switches on, by section, freshly initialised.

    Args:
        encoder: the one that is trained.
        labels: (L,) int64, the class of every training index.

    Raises HeadError when a head reads what the encoder does not show, or cannot be built with its options.
    """
    heads = {
        name: _build(name, HEADS[name].target, encoder, labels, options=sections[name])
        for name in HEADS
        if sections[name].enabled
    }
    own = sections[OWN]
    if own.name is not None:
        heads[OWN] = _build(OWN, own.name, encoder, labels, **own.options)
    return heads


def _build(section: str, target: str, encoder: Encoder, labels: Tensor, **options: Any) -> TrainingHead:
    from heads.head import TrainingHead  # imports torch, so not before a head is built

    head_class = import_class(target, "head", HeadError)
    if not (isinstance(head_class, type) and issubclass(head_class, TrainingHead)):
        raise HeadError(f"head {target!r}: not a subclass of heads.TrainingHead; derive the class from it")
    missing = sorted(head_class.reads - encoder.shows)
    if missing:
        raise HeadError(
            f"{section}: {head_class.__name__} reads {', '.join(missing)} of the encoder, which "
            f"{type(encoder).__name__} does not show; choose an encoder that does (docs/heads.md), or switch this head "
            "off"
        )
    try:
        head = head_class(encoder, labels, **options)
    except HeadError:
        raise
    except (TypeError, ValueError) as error:  # an option that does not fit, in the words of what refused it
        raise HeadError(f"{section}: {error}") from error
    trained = set(head.trained.parameters())
    for name, parameter in head.named_parameters():
        if parameter not in trained:
            raise HeadError(
                f"{section}: {head_class.__name__}.{name} is a parameter outside `trained`; put its layer into "
                "`trained`, or make it a buffer"
            )
    return head
