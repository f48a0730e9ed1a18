"""A model whose logits are computed only at the positions that are sampled."""

from typing import Any

import mlx.core as mx

__all__ = ["Head"]


class Head:
    """Makes the model compute logits only at picked positions of the backbone's output."""

    def __init__(self, model: Any):
        self.model = model
        self.backbone = _backbone(model)
        if self.backbone is not None:
            kind = type(self.backbone)
            if not getattr(kind, "_picks", False):
                self.backbone.__class__ = type(kind.__name__, (kind,), {"__call__": _picking_call, "_picks": True})
            self.backbone._pick = None

    def __call__(self, tokens: mx.array, cache: list[Any], pick: mx.array | None) -> mx.array:
        """Logits (rows, vocabulary) of `tokens` (batch, length); `pick` (rows,) indexes the flattened positions.

        None: of tokens (batch, 1), all.
        """
        if self.backbone is None and pick is not None:
            logits = self.model(tokens, cache=cache)
            return logits.reshape(-1, logits.shape[-1])[pick]
        if self.backbone is None or pick is None:
            return self.model(tokens, cache=cache)[:, 0]
        self.backbone._pick = pick
        try:
            return self.model(tokens, cache=cache)[:, 0]
        finally:
            self.backbone._pick = None

    def fill(self, tokens: mx.array, cache: list[Any]) -> None:
        """Put tokens into caches; logits are never computed because nobody evaluates them."""
        self.model(tokens, cache=cache)


def _picking_call(self: Any, *args: Any, **kwargs: Any) -> Any:
    out = type(self).__mro__[1].__call__(self, *args, **kwargs)
    if self._pick is None:
        return out
    return out.reshape(-1, 1, out.shape[-1])[self._pick]


def _backbone(model: Any) -> Any:
    for owner in (model, getattr(model, "language_model", None)):
        for name in ("model", "backbone", "transformer"):
            candidate = getattr(owner, name, None) if owner is not None else None
            if candidate is not None and hasattr(candidate, "layers"):
                return candidate
    return None
