import dspy
import pytest

from dspy_toolkit.errors import DataError
from dspy_toolkit_lora.scenarios.corpus import ALPHABET, ROW_CHARACTERS, base_language, decode, rows, shifted_language
from dspy_toolkit_lora.scenarios.scenario import SIZES, Scenario, splits


def test_the_sets_are_disjoint_and_of_their_sizes():
    sets = splits()
    assert {name: len(split) for name, split in sets.items()} == SIZES
    assert len({scenario for split in sets.values() for scenario in split}) == sum(SIZES.values())


def test_a_row_makes_its_scenario(scenario):
    assert Scenario.of({**scenario.row, "note": "kept out"}) == scenario
    assert Scenario.of(dict(dspy.Example(**scenario.row).items())) == scenario


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", None, "rows=None"),
        ("rows", "many", "rows='many'"),
        ("shift", 2, "shift=2"),
        ("max_steps", 0, "max_steps=0"),
        ("model", "SmolLM2-135", "Did you mean 'SmolLM2-135M'"),
    ],
)
def test_a_bad_field_is_named(scenario, field, value, message):
    with pytest.raises(DataError, match=message):
        Scenario.of({**scenario.row, field: value})


def test_text_follows_from_its_seed_and_noise_changes_its_share():
    language = shifted_language(0.5, "a")
    clean = rows(language, 200, noise=0, seed="x")
    assert clean == rows(language, 200, noise=0, seed="x")
    assert clean != rows(language, 200, noise=0, seed="y")
    assert {len(row) for row in clean} == {ROW_CHARACTERS}
    assert set(decode(clean[0])) <= set(ALPHABET)


def test_a_larger_shift_shares_fewer_words():
    def shared(shift):
        words = {word for group in base_language().lexicon for word in group}
        return sum(word in words for group in shifted_language(shift, "a").lexicon for word in group)

    assert shared(0) > shared(0.5) > shared(1) == 0
