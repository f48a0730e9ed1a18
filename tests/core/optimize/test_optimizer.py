"""What an optimizer is, and that what is wrong with its parameters is said before any call is made."""

from typing import Annotated

import pytest
from learners import refused
from pydantic import Field, model_validator

from dspy_toolkit.errors import OptimizationError, SettingsError, UnknownNameError
from dspy_toolkit.optimize.optimizer import (
    Optimizer,
    OptimizerParams,
    as_optimizer,
    load_optimizer,
    parameter_values,
    parse_params,
)
from dspy_toolkit.types import OptimizerEntry


def sample(job, *, count: Annotated[int, Field(ge=1)] = 4, names: list[str] = [], ratio: float | None = 0.5):  # noqa: B006
    return job.program


class Sample(Optimizer):
    """The same as a class."""

    class Params(OptimizerParams):
        count: Annotated[int, Field(ge=1)] = 4
        names: list[str] = []
        ratio: float | None = 0.5

    def compile(self, job, params):
        return job.program


class Paired(Sample):
    class Params(Sample.Params):
        @model_validator(mode="after")
        def _together(self):
            if self.ratio == 0.25 and not self.names:
                raise ValueError("ratio needs names")
            return self


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"count": 4, "names": [], "ratio": 0.5}),
        ({"count": "7", "ratio": "0.25"}, {"count": 7, "names": [], "ratio": 0.25}),
        ({"names": '["a", "b"]', "ratio": "null"}, {"count": 4, "names": ["a", "b"], "ratio": None}),
        ({"names": ["x"], "count": 2}, {"count": 2, "names": ["x"], "ratio": 0.5}),
    ],
)
def test_parameters_are_converted_and_filled_in(values, expected):
    for optimizer in (sample, Sample, Sample()):
        assert parameter_values(parse_params(as_optimizer(optimizer), values, name="sample")) == expected


def test_bad_parameters_are_named():
    for optimizer in map(as_optimizer, (sample, Sample)):
        with pytest.raises(UnknownNameError, match=r"'sample' named 'cuont'. Did you mean 'count'\?"):
            parse_params(optimizer, {"cuont": 3}, name="sample")
        with pytest.raises(SettingsError, match=r"sample.count is 0; input should be greater than or equal to 1"):
            parse_params(optimizer, {"count": 0}, name="sample")
        with pytest.raises(SettingsError, match=r"sample.count is 'many'; input should be a valid integer"):
            parse_params(optimizer, {"count": "many"}, name="sample")
        # The message is about the value that no reading makes right.
        with pytest.raises(SettingsError, match=r"sample.count is 'many'"):
            parse_params(optimizer, {"ratio": "null", "count": "many"}, name="sample")
        with pytest.raises(SettingsError, match=r"sample.count is '0'; input should be greater"):
            parse_params(optimizer, {"count": "0"}, name="sample")


def test_parameters_that_do_not_go_together_are_refused():
    with pytest.raises(SettingsError, match=r"parameters of sample do not go together: .*ratio needs names"):
        parse_params(as_optimizer(Paired), {"ratio": "0.25"}, name="sample")


def test_what_is_no_optimizer_is_refused():
    for wrong in (3, "bootstrap", None):
        with pytest.raises(OptimizationError, match="expected an Optimizer, an instance"):
            as_optimizer(wrong)


@pytest.mark.parametrize("name", ["json", "copy", "schema", "model_name", "name", "self"])
def test_any_keyword_can_be_a_parameter(name):
    scope = {}
    exec(f"def named(job, *, {name}: int = 1): return {name}", scope)
    optimizer = as_optimizer(scope["named"])
    params = parse_params(optimizer, {name: "3"}, name="named")
    assert parameter_values(params) == {name: 3}
    assert optimizer.compile(None, params) == 3


def test_every_built_in_optimizer_has_checkable_parameters(plugin_manager):
    for found in plugin_manager.entries(OptimizerEntry).values():
        optimizer = load_optimizer(found.entry)
        defaults = parse_params(optimizer, {}, name=found.entry.name)
        values = parameter_values(defaults)
        assert parse_params(optimizer, values, name=found.entry.name) == defaults
        for name in values:
            assert optimizer.Params.model_fields[name].description, f"{found.qualified_name} does not document {name}"


def test_the_docstring_lists_the_parameters(plugin_manager):
    optimizer = type(load_optimizer(plugin_manager.get(OptimizerEntry, "core/gepa").entry))
    assert "    auto: Literal['light', 'medium', 'heavy'] | None = None\n" in optimizer.__doc__
    assert "    reflection_minibatch_size: int = 3\n        Training rows with feedback" in optimizer.__doc__
    assert repr(optimizer()) == "Gepa()"


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
