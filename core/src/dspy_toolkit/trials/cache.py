"""Results of trials on disk, one JSON file each, named by everything the result depends on."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["content_key", "read_result", "write_result"]

logger = logging.getLogger(__name__)

_FORMAT = 1


def content_key(content: Mapping[str, Any]) -> str:
    """The name of a result: a digest of what it was computed from."""
    text = json.dumps({"format": _FORMAT, **content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_result(path: Path) -> Any | None:
    """The encoded result in a file; None if there is none or the file is damaged, so that the trial runs again."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("The trial result %s cannot be read and is computed again: %s", path, error)
        return None
    return document.get("result") if isinstance(document, dict) else None


def write_result(path: Path, document: Mapping[str, Any]) -> None:
    """Write the file whole or not at all. A disk that is full or read-only costs the cache, not the result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        logger.warning("A trial's result cannot be stored in %s: %s", path.parent, error.strerror)
