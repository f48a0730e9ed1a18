"""One version of one optimized program as a directory of plain files, whole or not there.

program.json    DSPy's state, without an LM
manifest.json   what it was made from and how good it is
prompt.md       the exact messages the program sends for one example     } for people;
README.md       the same in plain words                                  } never loaded
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.errors import BundleError, FingerprintError
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.programs import state
from dspy_toolkit.programs.prompt import messages, prompt_markdown
from dspy_toolkit.signatures.fingerprints import fingerprint, structure
from dspy_toolkit.store.manifest import FORMAT, Manifest
from dspy_toolkit.store.readme import readme
from dspy_toolkit.store.shape import differences

__all__ = ["FORMAT", "Bundle", "Manifest", "load_program", "read_bundle", "write_bundle"]

_PROGRAM, _MANIFEST = "program.json", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk: where it is and its manifest."""

    path: Path
    manifest: Manifest


def write_bundle(
    path: Path,
    result: OptimizationResult,
    *,
    example_inputs: Mapping[str, Any],
    adapter: dspy.Adapter | None = None,
    parent: str | None = None,
) -> Bundle:
    """Write a bundle to `path`: to a temporary name beside it, synced to disk, renamed.

    `adapter` is what the prompt is rendered with. Raises BundleError when there is no program, when `path` exists, when
    the program cannot be stored so that it sends the same prompt, or when the disk refuses; then nothing is left
    behind.
    """
    contents = bundle_files(result, example_inputs=example_inputs, adapter=adapter, parent=parent)
    write_files(path, contents)
    return read_bundle(path)


def bundle_files(
    result: OptimizationResult, *, example_inputs: Mapping[str, Any], adapter: dspy.Adapter | None, parent: str | None
) -> dict[str, str]:
    """The four files of a bundle, from name to text."""
    program = result.program
    if program is None:
        raise BundleError("This run found no program, so there is nothing to store; run it again to the end.")
    stored = _json(state.dump(program))
    plain = state.plain_of(program)
    _check_same_prompt(plain, json.loads(stored), example_inputs, adapter)
    manifest = Manifest.of(
        result,
        fingerprint=fingerprint(plain),
        shape={name: [tuple(field) for field in fields] for name, fields in structure(plain).items()},
        adapter=type(adapter or dspy.ChatAdapter()).__name__,
        parent=parent,
        files={_PROGRAM: hashlib.sha256(stored.encode()).hexdigest()},
    )
    return {
        _PROGRAM: stored,
        _MANIFEST: _json(manifest.to_dict()),
        "prompt.md": prompt_markdown(state.plain_of(program, example_inputs), example_inputs, adapter),
        "README.md": readme(manifest),
    }


def write_files(path: Path, contents: Mapping[str, str]) -> None:
    """Make the directory `path` with these files in one step. Raises BundleError; FileExistsError if `path` exists."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, text in contents.items():
            with (temporary / name).open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        sync_directory(temporary)
        # A bundle is never empty, so renaming onto one fails instead of replacing it.
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            raise FileExistsError(17, "it exists already", str(path)) from error
        raise BundleError(f"The bundle {path} cannot be written: {error.strerror or error}.") from error


def read_bundle(path: Path | str) -> Bundle:
    """Read and check a bundle. Raises BundleError naming the file that is missing or damaged."""
    path = Path(path)
    manifest = Manifest.parse(_read_json(path / _MANIFEST), str(path / _MANIFEST))
    if _PROGRAM not in manifest.files:
        raise BundleError(f"{path / _MANIFEST} has no sha256 of {_PROGRAM}. Get the bundle again.")
    for name, expected in manifest.files.items():
        if name != _PROGRAM:
            raise BundleError(f"{path / _MANIFEST} lists the file {name!r}, which is none of a bundle's.")
        if hashlib.sha256(_read(path / name)).hexdigest() != expected:
            raise BundleError(
                f"{path / name} is not the file that was stored; its sha256 differs. Get the bundle again."
            )
    return Bundle(path=path, manifest=manifest)


def load_program(bundle: Bundle, factory: Callable[[], dspy.Module]) -> dspy.Module:
    """Build the program with `factory` and put the bundle's state into it. It has no LM: it runs with the context's.

    Raises FingerprintError with what changed, field by field, when the factory's program is not the one the bundle was
    made for; BundleError naming the file when the state is damaged.
    """
    program = factory()
    manifest = bundle.manifest
    if fingerprint(program) != manifest.fingerprint:
        changes = differences(manifest.shape, structure(program))
        raise FingerprintError(
            f"{bundle.path} was made for another version of {manifest.task or 'its program'}: "
            f"{'; '.join(changes) or 'its fingerprint is another one'}. "
            "Optimize again, or add a migration to the plugin."
        )
    stored = _read_json(bundle.path / _PROGRAM)
    try:
        return state.load(stored, factory, program)
    except BundleError as error:
        raise BundleError(f"{bundle.path / _PROGRAM} is damaged: {error}. Get the bundle again.") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut (where directories can be opened, which Windows does not
    do).
    """
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_same_prompt(
    program: dspy.Module, stored: dict[str, Any], inputs: Mapping[str, Any], adapter: dspy.Adapter | None
) -> None:
    reloaded = program.deepcopy()
    reloaded.set_lm(None)
    state.load_plain(reloaded, stored)
    sent, resent = messages(program, inputs, adapter), messages(reloaded, inputs, adapter)
    for name in sent:
        if sent[name] != resent[name]:
            raise BundleError(
                f"The predictor {name!r} would send another prompt after loading: a demonstration holds a value that "
                "plain JSON and its field's type cannot bring back. Use values of the field's type."
            )


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}. A bundle needs {_MANIFEST} and {_PROGRAM}."
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise BundleError(f"{path} is damaged: it is not JSON ({error}). Get the bundle again.") from error
    except RecursionError as error:
        raise BundleError(f"{path} is damaged: it is nested too deeply. Get the bundle again.") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that comes twice, one reader takes the first value and another the last."""
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return document
