"""Classes that users name as `package.module:Class`. Free of torch."""

from __future__ import annotations

import importlib
from typing import Any

from common.errors import UserError
from common.words import did_you_mean


def import_class(target: str, what: str, error: type[UserError]) -> Any:
    """What `package.module:Class` names.

    Args:
        what: the thing that is named, the head of the message, such as `encoder`.
        error: the class of the error.

    Raises UserError (of the class `error`) when the module cannot be imported or has no such class.
    """
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as cause:
        not_found = f"{module_name}.".startswith(f"{cause.name}.")
        where = "; put it into the repository's folder or on PYTHONPATH" if not_found else ""
        raise error(f"{what} {target!r}: module {module_name!r} cannot be imported ({cause}){where}") from cause
    except ValueError:
        raise error(f"{what} {target!r}: no module {module_name!r}; write package.module:Class") from None
    if not hasattr(module, class_name):
        hint = did_you_mean(class_name, dir(module))
        raise error(f"{what} {target!r}: module {module_name!r} has no class {class_name!r}{hint}")
    return getattr(module, class_name)
