"""What is wrong with an optimizer's parameters is said before any call is made."""

import pytest
from learners import refused

from dspy_toolkit.errors import SettingsError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "parameters", "match"),
    [
        ("mipro", {"num_candidates": 2}, r"mipro\.num_candidates is 2"),
        ("mipro", {"auto": "huge"}, r"mipro\.auto is 'huge'"),
        ("copro", {"breadth": 1}, r"copro\.breadth is 1"),
        ("simba", {"num_candidates": 1}, r"simba\.num_candidates is 1"),
        ("gepa", {"candidate_selection_strategy": "x"}, r"gepa\.candidate_selection_strategy is 'x'"),
        ("knn", {"k": 0}, r"knn\.k is 0"),
        ("labeled", {"k": "many"}, r"labeled\.k is 'many'"),
        ("ensemble", {"size": 1}, r"ensemble\.size is 1"),
        ("random-search", {"stop_at_score": 101}, r"random-search\.stop_at_score is 101"),
    ],
)
def test_bad_values_are_named(plugin_manager, name, parameters, match):
    refused(plugin_manager, name, match, SettingsError, parameters=parameters)


def test_bad_combinations_are_named(plugin_manager):
    only_labels = {"max_bootstrapped_demos": 0, "max_labeled_demos": 4}
    refused(plugin_manager, "mipro", "labelled demonstrations alone", parameters=only_labels)
    unknown = {"strategy": "bootstrap -> copor", "parameters": {}}
    refused(plugin_manager, "better-together", "Did you mean 'copro'", UnknownNameError, parameters=unknown)
    refused(plugin_manager, "better-together", r"copro\.depth is 0", SettingsError,
            parameters={"parameters": {"copro": {"depth": 0}}})  # fmt: skip
