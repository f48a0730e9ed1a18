"""Turns requests into sequences, in the callers' threads: tokenizer, chat template and grammars of one model."""

import time
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from itertools import pairwise
from typing import Any

from dspy.lm15 import Request
from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.decoding.grammar import GrammarStore
from dspy_toolkit_mlx.decoding.thinking import thinker, thinking_variables
from dspy_toolkit_mlx.decoding.tool_formats import tool_format
from dspy_toolkit_mlx.models.tokenizers import transformers_tokenizer
from dspy_toolkit_mlx.prompting.guides import Guides
from dspy_toolkit_mlx.prompting.prepare import Prepared, PromptRenderer, TemplateTraits
from dspy_toolkit_mlx.scheduling.sequence import Sequence
from dspy_toolkit_mlx.scheduling.transcript import Piece

__all__ = ["Intake"]


TURN = 16
"""Ordinary tokens that count as a message: a role's name and the start of an answer have fewer."""


class Intake:
    """The tokenizer, template and grammars of a model. Made by the engine thread, used by any.

    `words` is the length of a mask.

    Raises ModelError for a tokenizer without chat template or without `tokenizer.json`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, vocab: int, max_context: int | None, default_max_tokens: int):
        if not getattr(tokenizer, "has_chat_template", False):
            raise ModelError(
                "the model has no chat template; use an instruction-tuned model or give its tokenizer a `chat_template`"
            )
        self._eos = frozenset(tokenizer.eos_token_ids)
        fast = transformers_tokenizer(tokenizer)
        try:
            low = from_tokenizer(fast, n_vocab=max(vocab, len(tokenizer)), eos_token=sorted(self._eos))
        except ValueError as error:
            raise ModelError(f"the tokenizer cannot be used: {error}; a `tokenizer.json` is needed") from error
        self._store = GrammarStore(low)
        self._store.closers()
        self.words = self._store.words
        self._bytes = _TokenBytes(self._store.tokenizer)
        added = fast.added_tokens_decoder
        self._special = frozenset(token for token, how in added.items() if how.special)
        backend = fast.backend_tokenizer
        encode: Callable[[str], list[int]] = lambda text: backend.encode(text, add_special_tokens=False).ids  # noqa: E731
        form, thinks = tool_format(tokenizer, low), thinker(tokenizer, encode)
        self.thinks = thinks is not None
        self._guides = Guides(self._store, self._eos, form, thinks)
        self._renderer = PromptRenderer(
            tokenizer.apply_chat_template,
            encode,
            context=max_context or _context(model, tokenizer),
            default_max_tokens=default_max_tokens,
            vocab_size=vocab,
            traits=TemplateTraits(
                thinker=thinks,
                variables=thinking_variables(tokenizer),
                described=(form.start, form.end) if form.described else None,
            ),
        )

    def sequences(
        self, request: Request, samples: Rows[tuple[int | None, int]], emit: Callable[[Piece], None] | None
    ) -> list[Sequence]:
        """Make a sequence for each (rollout, completion) of a request. Raises `dspy.lm15` errors and GrammarError."""
        ready = self._renderer.prepare(request)
        now = time.monotonic()
        duplicate_key, turns = _duplicate_key(ready), self._turns(ready.prompt)
        return [
            Sequence(
                prompt=ready.prompt,
                sampling=ready.sample(rollout, completion),
                duplicate_key=duplicate_key,
                turns=turns,
                max_tokens=ready.max_tokens,
                token_bytes=self._bytes.__getitem__,
                eos=self._eos,
                stop=ready.stop,
                guide=self._guides.make(ready),
                deadline=ready.deadline,
                arrival=now,
                emit=emit,
            )
            for rollout, completion in samples
        ]

    def _turns(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Where messages of a prompt begin, by the special tokens that chat templates put between them.

        All calls of a program share what is before the first; all calls with the same demonstrations share what is
        before the last.
        """
        marks = [index + 1 for index, token in enumerate(prompt) if token in self._special]
        starts = [start for start, end in pairwise([*marks, len(prompt)]) if end - start > TURN]
        return tuple(sorted({*starts[1:2], *starts[-1:]}))

    @property
    def repetitions_ended(self) -> int:
        return self._store.repetitions_ended

    @property
    def context_length(self) -> int:
        return self._renderer.context

    def count_tokens(self, messages: Rows[Mapping[str, Any]]) -> int:
        return self._renderer.count(messages)


class _TokenBytes(dict[int, bytes]):
    """The bytes of each token; special tokens have none."""

    def __init__(self, tokenizer: LLTokenizer):
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> bytes:
        low = self._tokenizer
        data = self[token] = b"" if low.is_special_token(token) else low.decode_bytes([token])
        return data


def _duplicate_key(ready: Prepared) -> Hashable | None:
    """What determines an answer without randomness: every field but the deadline and the seed."""
    if ready.sampling.temperature > 0:
        return None
    sampling = replace(ready.sampling, seed=0)
    return ready.prompt, repr(replace(ready, prompt=(), sampling=sampling, deadline=None, seeded=False))


def _context(model: Any, tokenizer: Any) -> int:
    """The model's context length in tokens, from its configuration, else its tokenizer's."""
    for owner in (model, getattr(model, "language_model", None)):
        args = getattr(owner, "args", None)
        length = getattr(args, "max_position_embeddings", None)
        if isinstance(length, int) and length > 0:
            return length
    length = getattr(transformers_tokenizer(tokenizer), "model_max_length", None)
    return length if isinstance(length, int) and 0 < length < 10**8 else 4096
