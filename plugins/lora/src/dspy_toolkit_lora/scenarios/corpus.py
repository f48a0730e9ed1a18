"""Generated text: the language the small base model knows, and the ones a scenario fine-tunes it towards.

A language is a lexicon of invented words in a few word classes, and a grammar that says which class follows which.
A *shift* from 0 to 1 says how far a target language is from the base language: that share of its words is new, and its
grammar is drawn towards a new one by the same amount. Noise replaces a share of the characters, as bad OCR does.
Everything follows from seeds, so two machines train on the same text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

ALPHABET = " .abcdefghijklmnopqrstuvwxyz"
"""The vocabulary of the small model: token `i` is `ALPHABET[i]`."""

ROW_CHARACTERS = 25
"""Characters in a row: 24 to read, each followed by one to predict."""

_CLASSES = 4
_WORDS_PER_CLASS = 6
_BASE_SEED = 20_260_101

Row = list[int]


@dataclass(frozen=True)
class Language:
    """`lexicon[c]` are the words of class `c`; `grammar[c][d]` the weight of class `d` after class `c`."""

    lexicon: tuple[tuple[str, ...], ...]
    grammar: tuple[tuple[float, ...], ...]


def base_language() -> Language:
    """The language the base model is pretrained on."""
    rng = random.Random(_BASE_SEED)
    return Language(lexicon=_lexicon(rng), grammar=_grammar(rng))


def shifted_language(shift: float, seed: str) -> Language:
    """A language at distance `shift` (0 is the base language, 1 shares neither words nor grammar with it)."""
    rng = random.Random(f"language {seed}")
    base, other = base_language(), Language(lexicon=_lexicon(rng), grammar=_grammar(rng))
    lexicon = tuple(
        tuple(new if rng.random() < shift else old for old, new in zip(olds, news, strict=True))
        for olds, news in zip(base.lexicon, other.lexicon, strict=True)
    )
    grammar = tuple(
        tuple((1 - shift) * old + shift * new for old, new in zip(olds, news, strict=True))
        for olds, news in zip(base.grammar, other.grammar, strict=True)
    )
    return Language(lexicon=lexicon, grammar=grammar)


def rows(language: Language, count: int, *, noise: float, seed: str) -> list[Row]:
    """`count` rows of token ids, each a window of text that starts at a word."""
    rng = random.Random(f"rows {seed}")
    return [encode(_noisy(_text(language, rng), noise, rng)) for _ in range(count)]


def encode(text: str) -> Row:
    return [ALPHABET.index(character) for character in text]


def decode(row: Sequence[int]) -> str:
    return "".join(ALPHABET[token] for token in row)


def _text(language: Language, rng: random.Random) -> str:
    word_class, text = rng.randrange(_CLASSES), ""
    while len(text) < ROW_CHARACTERS:
        text += rng.choice(language.lexicon[word_class])
        ends = word_class == _CLASSES - 1
        text += ". " if ends else " "
        word_class = rng.choices(range(_CLASSES), weights=language.grammar[word_class])[0]
    return text[:ROW_CHARACTERS]


def _noisy(text: str, noise: float, rng: random.Random) -> str:
    return "".join(rng.choice(ALPHABET) if rng.random() < noise else character for character in text)


def _lexicon(rng: random.Random) -> tuple[tuple[str, ...], ...]:
    letters = ALPHABET[2:]
    return tuple(
        tuple("".join(rng.choices(letters, k=rng.randint(3, 5))) for _ in range(_WORDS_PER_CLASS))
        for _ in range(_CLASSES)
    )


def _grammar(rng: random.Random) -> tuple[tuple[float, ...], ...]:
    """Each class prefers one successor: eight times as likely as the others."""
    favourites = [rng.randrange(_CLASSES) for _ in range(_CLASSES)]
    return tuple(tuple(8.0 if d == favourites[c] else 1.0 for d in range(_CLASSES)) for c in range(_CLASSES))
