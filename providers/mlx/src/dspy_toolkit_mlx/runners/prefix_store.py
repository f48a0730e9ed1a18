"""Prefixes on disk: what one process computed and many requests shared, later processes read.

    <directory>/<model>/<tokens>-<digest of the tokens>.safetensors

A file appears under its name when it is complete. It is used only if its header names this model and these tokens and
has the shapes and types of such a state; any other file is ignored, with a line in the log.
"""

import hashlib
import logging
import os
import time
from array import array
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from dspy_toolkit_mlx.models.checkpoint import read_header
from dspy_toolkit_mlx.runners.base import Runner
from dspy_toolkit_mlx.scheduling.prefix_tree import PrefixTree

__all__ = ["PrefixStore", "fingerprint"]

log = logging.getLogger(__name__)

FORMAT = "dspy-toolkit prefix 1"
SEEN = 8
"""Requests that must share a prefix before it is written."""
LONG = 256
"""Tokens that a prefix must have beyond the longest stored prefix of it."""
STALE = 600.0
"""Seconds after which an unfinished file belongs to a process that has ended."""
_UNFINISHED = "unfinished-"
_TYPES = {
    mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint8: "U8", mx.uint32: "U32", mx.int32: "I32",
    mx.int64: "I64",
}  # fmt: skip


def fingerprint(model: Any, runner: Runner) -> str:
    """Tells models apart by content: structure, shapes, types and a sample of every weight, adapters included."""
    digest = hashlib.blake2b(f"{FORMAT} {runner.name} {type(model).__module__}".encode(), digest_size=12)
    flat: Any = tree_flatten(model.parameters())
    weights: list[tuple[str, mx.array]] = sorted(flat, key=lambda pair: pair[0])
    samples = [weight.reshape(-1)[:: max(1, weight.size // 64)].astype(mx.float32) for _, weight in weights]
    mx.eval(samples)
    for (name, weight), sample in zip(weights, samples, strict=True):
        digest.update(f"{name} {weight.shape} {weight.dtype}".encode())
        digest.update(np.array(sample).tobytes())
    return digest.hexdigest()


def _digest(tokens: Rows[int]) -> str:
    return hashlib.blake2b(array("q", tokens).tobytes(), digest_size=16).hexdigest()


class PrefixStore:
    """The files of one model under `directory`, which models share: together they keep to `max_bytes`.

    Belongs to the engine thread. Several processes may use one directory; the least recently used files go first.
    Nothing here raises for a damaged file or a full disk; that counts as no file.
    """

    def __init__(self, directory: Path, max_bytes: int, model: Any, runner: Runner):
        self._root = directory
        self._max_bytes = max_bytes
        self._runner = runner
        self._model = fingerprint(model, runner)
        self._own = directory / self._model
        self._files: dict[int, set[str]] = {}
        self._full = False
        self._written: set[str] = set()
        try:
            state = runner.extend(None, [0])
            self._layout = {name: (_TYPES[part.dtype], part.shape) for name, part in runner.pack(state).items()}
            self._own.mkdir(parents=True, exist_ok=True, mode=0o700)  # states are as private as the prompts
            self._look()
        except (OSError, TypeError, KeyError) as error:
            log.warning("Prefixes of this model are not kept on disk: %s", error)
            self._full = True

    def _look(self) -> None:
        for file in self._own.glob(f"{_UNFINISHED}*"):
            if time.time() - file.stat().st_mtime > STALE:
                file.unlink(missing_ok=True)
        for file in self._own.glob("*-*.safetensors"):
            length, _, digest = file.stem.partition("-")
            if length.isdecimal():
                self._files.setdefault(int(length), set()).add(digest)

    def longest(self, tokens: Rows[int], beyond: int) -> int:
        """The length of the longest stored prefix of `tokens`, if longer than `beyond`; else 0."""
        for length in sorted(self._files, reverse=True):
            if beyond < length <= len(tokens) and _digest(tokens[:length]) in self._files[length]:
                return length
        return 0

    def take(self, tokens: Rows[int]) -> Any:
        """The state of exactly these tokens, evaluated, or None."""
        file = self._file(tokens)
        try:
            state = self._read(file, tokens)
            os.utime(file)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError is MLX's for a file it cannot load
            log.warning("The prefix file %s is ignored: it %s", file, error)
            self._files[len(tokens)].discard(_digest(tokens))
            return None
        return state

    def _read(self, file: Path, tokens: Rows[int]) -> Any:
        _, _, tensors = read_header(file)
        expected = {name: self._shape(name, len(tokens)) for name in self._layout}
        have = {name: (tensor.type, tensor.shape) for name, tensor in tensors.items()}
        if have != expected:
            wrong = sorted(name for name in have.keys() | expected if have.get(name) != expected.get(name))
            raise ValueError(f"has other arrays than a state of this model, first {wrong[0]!r}")
        loaded: Any = mx.load(str(file), return_metadata=True)
        arrays, metadata = loaded
        if metadata != self._metadata(tokens):
            raise ValueError("says that it is of another model or of other tokens")
        mx.eval(arrays)
        return self._runner.unpack(arrays)

    def _shape(self, name: str, length: int) -> tuple[str, tuple[int, ...]]:
        kind, shape = self._layout[name]
        grows = name.endswith((".keys", ".values"))
        return kind, (*shape[:2], length, *shape[3:]) if grows else tuple(shape)

    def _metadata(self, tokens: Rows[int]) -> dict[str, str]:
        return {"format": FORMAT, "model": self._model, "length": str(len(tokens)), "tokens": _digest(tokens)}

    def _file(self, tokens: Rows[int]) -> Path:
        return self._own / f"{len(tokens)}-{_digest(tokens)}.safetensors"

    def write_next(self, tree: PrefixTree) -> bool:
        """Write the next prefix of the tree that many requests share; False if there is none left."""
        if self._full:
            return False
        for node in tree.shared(SEEN, LONG):
            tokens = node.tokens()
            stored = self.longest(tokens, 0)
            if len(tokens) - stored >= LONG and _digest(tokens) not in self._written:
                self._written.add(_digest(tokens))  # once: two that do not fit together would alternate for ever
                return self.put(tokens, tree.state(node))
        return False

    def put(self, tokens: Rows[int], state: Any) -> bool:
        """Write a state of these tokens, evicting older files; returns whether it is stored."""
        arrays = self._runner.pack(state)
        size = sum(part.nbytes for part in arrays.values())
        file = self._file(tokens)
        unfinished = self._own / f"{_UNFINISHED}{os.getpid()}-{file.name}"
        try:
            if not self._make_room(size):
                return False
            mx.save_safetensors(str(unfinished), arrays, self._metadata(tokens))
            unfinished.replace(file)
        except (OSError, RuntimeError) as error:  # RuntimeError is MLX's for a disk that is full
            log.warning("A prefix of %d tokens is not kept: %s; no more are until the next start", len(tokens), error)
            unfinished.unlink(missing_ok=True)
            self._full = True
            return False
        self._files.setdefault(len(tokens), set()).add(_digest(tokens))
        log.info("A prefix of %d tokens is kept in %s (%d bytes)", len(tokens), file, size)
        return True

    def _make_room(self, size: int) -> bool:
        files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._root.glob("*/*.safetensors"))
        held = sum(bytes_ for _, bytes_, _ in files)
        while files and held + size > self._max_bytes >= size:
            _, bytes_, oldest = files.pop(0)
            oldest.unlink(missing_ok=True)
            held -= bytes_
            if oldest.parent == self._own:
                length, _, digest = oldest.stem.partition("-")
                self._files.get(int(length) if length.isdecimal() else -1, set()).discard(digest)
        return held + size <= self._max_bytes
