"""What a user can get wrong about training heads. Free of torch."""

from __future__ import annotations

from common.errors import UserError


class HeadError(UserError):
    """A head that cannot be built or trained as asked; the message names the head, the reason and the fix."""
