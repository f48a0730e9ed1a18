"""A DSPy request becomes prompt tokens and options. Runs in the caller's thread; names what it refuses."""

import hashlib
import json
import secrets
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from dspy.lm15 import ContextLengthError, InvalidRequestError, Request, UnsupportedFeatureError

from dspy_toolkit.engine import grammar_of
from dspy_toolkit_mlx.decoding.grammar import GrammarSource
from dspy_toolkit_mlx.decoding.thinking import Thinker, ThoughtPlan, budget
from dspy_toolkit_mlx.decoding.tools import ToolPlan, function_schema, tool_plan
from dspy_toolkit_mlx.prompting.messages import chat, system_text
from dspy_toolkit_mlx.scheduling.sequence import Sampling, derive

__all__ = ["METADATA", "Prepared", "PromptRenderer", "TemplateTraits", "read_options"]


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a boolean")
    return float(value)


def _integer(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("not whole")
    return int(number)


def _bias(value: Any) -> dict[int, float]:
    pairs = json.loads(value) if isinstance(value, str) else value
    return {int(token): _number(bias) for token, bias in dict(pairs).items()}


METADATA: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], bool], str]] = {
    "min_p": (_number, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "repetition_penalty": (_number, lambda v: v > 0, "a number above 0"),
    "repetition_context": (_integer, lambda v: v > 0, "a whole number above 0"),
    "logit_bias": (
        _bias,
        lambda v: all(-100 <= b <= 100 for b in v.values()),
        "{token id: bias from -100 to 100}",
    ),
    "rollout_id": (_integer, lambda v: v >= 0, "a whole number from 0"),
    "timeout": (_number, lambda v: v > 0, "seconds above 0"),
    "thinking_tokens": (_integer, lambda v: v > 0, "a whole number above 0"),
}
"""Options in `metadata`, because DSPy's requests have no field for them: reader, check, expectation."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the engine runs: tokens and options. `deadline` is on the clock of time.monotonic."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    grammar: GrammarSource | None
    deadline: float | None
    seeded: bool
    tools: ToolPlan | None = None
    thought: ThoughtPlan | None = None

    def sample(self, rollout: int | None, completion: int) -> Sampling:
        """The sampling of one completion of one rollout. The first completion without a rollout is the plain seed's.

        Without a seed, a rollout is still repeatable, and everything else is random.
        """
        base = self.sampling
        if rollout is None and completion == 0:
            return base
        if rollout is None:
            return replace(base, seed=derive(base.seed, completion))
        own = base.seed if self.seeded else _prompt_seed(0, self.prompt)
        return replace(base, seed=derive(own, rollout + 1, completion))


def _prompt_seed(seed: int, prompt: Sequence[int]) -> int:
    """The seed of a prompt. Examples of a data set that are run with one seed must not all draw the same noise."""
    digest = hashlib.blake2b(array("q", prompt).tobytes(), digest_size=8).digest()
    return derive(seed, int.from_bytes(digest, "little"))


def read_options(request: Request) -> tuple[dict[str, Any], GrammarSource | None]:
    """Return the options outside the typed fields, checked, and the grammar. Raises InvalidRequestError by name."""
    extensions = dict(request.config.extensions or {})
    grammar = _grammar(request)
    carried: Any = extensions.pop("metadata", None) or {}
    metadata: dict[str, Any] = dict(carried)
    if "logit_bias" in extensions:
        metadata["logit_bias"] = extensions.pop("logit_bias")
    metadata.pop("grammar", None)
    options: dict[str, Any] = {}
    for name, value in {**extensions, **metadata}.items():
        if name not in METADATA or name in extensions:
            close = get_close_matches(name, METADATA, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InvalidRequestError(
                f"Unknown option {name!r}.{hint} Known options in metadata: grammar, {', '.join(sorted(METADATA))}."
            )
        read, check, expected = METADATA[name]
        try:
            options[name] = read(value)
            good = check(options[name])
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise InvalidRequestError(f"The option {name!r} is {value!r}; expected {expected}.")
    return options, grammar


def _grammar(request: Request) -> GrammarSource | None:
    grammar = grammar_of(request)
    if grammar is not None:
        return GrammarSource.of(grammar)
    response_format: Mapping[str, Any] | None = request.config.response_format
    if response_format is None:
        return None
    schema: Any = {"type": "object"} if response_format["type"] == "json_object" else response_format["schema"]
    return GrammarSource.json_schema(schema)


@dataclass(frozen=True, kw_only=True)
class TemplateTraits:
    """What else a chat template can do.

    `thinker` are the tags of a model that thinks, `variables` the names by which the template asks whether to think.
    `described` are the marks of a tool call where the template has no tools: the system message then describes them.
    """

    thinker: Thinker | None = None
    variables: Sequence[str] = ("enable_thinking",)
    described: tuple[str, str] | None = None


class PromptRenderer:
    """Turns messages into tokens with one tokenizer's chat template. Safe to call from any thread.

    `context` is the model's context length in tokens. `encode` turns text into tokens, special tokens included.
    """

    def __init__(
        self,
        apply_template: Callable[..., str],
        encode: Callable[[str], list[int]],
        *,
        context: int,
        default_max_tokens: int,
        vocab_size: int,
        traits: TemplateTraits | None = None,
    ):
        traits = traits or TemplateTraits()
        self._apply = apply_template
        self._thinker = traits.thinker
        self._described = traits.described
        self._variables = traits.variables
        self._encode = encode
        self.context = context
        self._default_max_tokens = default_max_tokens
        self._vocab_size = vocab_size

    def prepare(self, request: Request) -> Prepared:
        """Raises ContextLengthError, InvalidRequestError or UnsupportedFeatureError; computes nothing on a device."""
        options, grammar = read_options(request)
        config = request.config
        for field in ("service_tier", "store", "probabilities"):
            if getattr(config, field, None):
                raise UnsupportedFeatureError(f"A local model has no {field}.", feature=f"config.{field}")
        outside = [token for token in options.get("logit_bias", {}) if not 0 <= token < self._vocab_size]
        if outside:
            raise InvalidRequestError(f"logit_bias names token {outside[0]}; the vocabulary has {self._vocab_size}.")
        tools = tool_plan(request)
        constrained = grammar is not None or (tools is not None and tools.required)
        prompt, opened = self._prompt(request, tools, constrained=constrained)
        room = self.context - len(prompt)
        if room < 1:
            raise self._too_long(request, len(prompt))
        if "rollout_id" in options:
            seed = derive(_prompt_seed(config.seed or 0, prompt), options["rollout_id"] + 1)
        elif config.seed is not None:
            seed = _prompt_seed(config.seed, prompt)
        else:
            seed = secrets.randbits(63)
        max_tokens = min(config.max_tokens or self._default_max_tokens, room)
        thought = None
        if opened is not None:
            allowed = budget(config.reasoning, options.get("thinking_tokens"), max_tokens)
            thought = ThoughtPlan(opened=opened, requested=config.reasoning is not None, budget=allowed)
        return Prepared(
            prompt=tuple(prompt),
            sampling=Sampling(
                temperature=config.temperature or 0.0,
                top_p=1.0 if config.top_p is None else config.top_p,
                top_k=config.top_k or 0,
                min_p=options.get("min_p", 0.0),
                repetition_penalty=options.get("repetition_penalty", 1.0),
                repetition_context=options.get("repetition_context", 20),
                presence_penalty=config.presence_penalty or 0.0,
                frequency_penalty=config.frequency_penalty or 0.0,
                logit_bias=options.get("logit_bias", {}),
                seed=seed,
                logprobs=config.logprobs,
            ),
            max_tokens=max_tokens,
            stop=config.stop,
            grammar=grammar,
            deadline=time.monotonic() + options["timeout"] if "timeout" in options else None,
            seeded=config.seed is not None,
            tools=tools,
            thought=thought,
        )

    def count(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Tokens of a chat prompt, template included. Contents are text, or lists of parts, of which text counts."""
        plain = [{"role": message["role"], "content": _content(message.get("content"))} for message in messages]
        return len(self._encode(self._render(plain, {})))

    def _prompt(self, request: Request, tools: ToolPlan | None, *, constrained: bool) -> tuple[list[int], bool | None]:
        """The tokens; and whether they end inside a thought, None if the answer holds no thought."""
        reasoning = request.config.reasoning
        requested = None if reasoning is None else not reasoning.is_off
        if requested and self._thinker is None:
            raise UnsupportedFeatureError(
                "This model does not think before it answers; leave the reasoning effort out.",
                feature="config.reasoning",
            )
        options: dict[str, Any] = {}
        if tools is not None and self._described is None:
            options["tools"] = [function_schema(tool) for tool in tools.declared]
        if requested is not None or constrained:
            options |= dict.fromkeys(
                self._variables, bool(requested)
            )  # no thought in a constrained answer unless requested
        declared = () if tools is None else tools.declared
        text = self._render(chat(request, self._described, declared), options)
        if self._thinker is None:
            return self._encode(text), None
        text, opened = self._thinker.settle(text, requested=requested, constrained=constrained)
        return self._encode(text), opened

    def _render(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
        """The chat template's text; `options` are the template's own variables."""
        from jinja2 import TemplateError

        try:
            return self._apply(messages, add_generation_prompt=True, tokenize=False, **options)
        except TemplateError as error:
            if messages[0]["role"] != "system" or len(messages) < 2 or messages[1]["role"] != "user":
                raise InvalidRequestError(f"The model's chat template refuses these messages: {error}") from error
        # Gemma's templates and a few others know no system role: the first user turn then carries it.
        first = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
        try:
            return self._apply([first, *messages[2:]], add_generation_prompt=True, tokenize=False, **options)
        except TemplateError as error:
            raise InvalidRequestError(f"The model's chat template refuses these messages: {error}") from error

    def _too_long(self, request: Request, total: int) -> ContextLengthError:
        system = len(self._encode(system_text(request)))
        texts = [
            sum(len(self._encode(part.text)) for part in message.parts if part.type == "text")
            for message in request.messages
        ]
        demonstrations, last = sum(texts[:-1]), texts[-1]
        tools = sum(len(self._encode(json.dumps(function_schema(tool)))) for tool in request.tools)
        offered = f"tools: {tools}, " if tools else ""
        return ContextLengthError(
            f"The prompt has {total} tokens; the model's context has {self.context} and one must be left to answer. "
            f"System message: {system}, {offered}demonstrations and earlier turns: {demonstrations}, input: {last}."
        )


def _content(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text", "") for part in content)
