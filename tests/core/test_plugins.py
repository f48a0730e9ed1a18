"""The contract on real distributions on disk: found, listed, picked, blocked, and never fatal when broken."""

import pytest

from dspy_toolkit.errors import DuplicateNameError, PluginError, UnknownNameError
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.types import MetricEntry, OptimizerEntry, ProviderEntry, SignatureEntry, TaskEntry

GOOD = """
from dspy_toolkit import hookimpl
from dspy_toolkit.types import MetricEntry, ProviderEntry, SignatureEntry

CALLS = []

@hookimpl
def toolkit_metrics():
    CALLS.append("toolkit_metrics")
    yield MetricEntry(name="rain", summary="Did it rain?", metric="nowhere.at_all:rain")

@hookimpl
def toolkit_signatures():
    return [SignatureEntry(name="Forecast", summary="Tomorrow.", signature="nowhere.at_all:Forecast")]
"""


def hooks(body, imports="MetricEntry, ProviderEntry, SignatureEntry"):
    return f"from dspy_toolkit import hookimpl\nfrom dspy_toolkit.types import {imports}\n\n@hookimpl\n{body}\n"


def metric(name="rain"):
    return f"MetricEntry(name={name!r}, summary='s', metric='a.b:c')"


def provider(name):
    return hooks(f"def toolkit_providers():\n    yield ProviderEntry(name={name!r}, summary='s', connect='a.b:c')")


def record(manager, name):
    (found,) = [record for record in manager.records if record.name == name]
    return found


def others_work(manager):
    """What every broken plugin must leave alone."""
    assert manager.get(MetricEntry, "core/accuracy").distribution == "dspy-toolkit"
    assert manager.get(OptimizerEntry, "bootstrap").project == "core"


def test_a_good_plugin_is_found_by_its_entry_point(plugin_distribution):
    plugin_distribution("weather", GOOD, version="2.5")
    manager = PluginManager(select="")
    found = record(manager, "weather")
    assert (found.distribution, found.version, found.error, found.blocked) == (
        "dspy-toolkit-weather",
        "2.5",
        None,
        False,
    )
    assert found.hooks == ("toolkit_metrics", "toolkit_signatures")
    assert manager.get(MetricEntry, "weather/rain").qualified_name == "weather/rain"
    assert manager.get(SignatureEntry, "Forecast").distribution == "dspy-toolkit-weather"
    assert manager.get(MetricEntry, "rain", project="weather").entry.summary == "Did it rain?"
    others_work(manager)


def test_hooks_are_called_once_and_only_when_needed(plugin_distribution):
    plugin_distribution("weather", GOOD)
    manager = PluginManager(select="")
    import dspy_toolkit_weather.hooks as module

    assert module.CALLS == []
    assert record(manager, "weather").hooks, "listing needs no call"
    manager.entries(MetricEntry)
    manager.get(MetricEntry, "weather/rain")
    assert module.CALLS == ["toolkit_metrics"]


EXPECTED = "expected an iterable of MetricEntry"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("syntax error here", "SyntaxError"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("class Odd(BaseException): pass\nraise Odd('base')", "Odd: base"),
        ("class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute", "Mute: an error that cannot"),
        (hooks("def toolkit_metrics():\n    raise GeneratorExit('base')"), "GeneratorExit: base"),
        (hooks("def toolkit_metric():\n    yield 1"), "'toolkit_metric'. Did you mean 'toolkit_metrics'?"),
        (hooks("def toolkit_metrics(plugins):\n    yield 1"), "toolkit_metrics"),
        (hooks("def toolkit_metrics():\n    raise ValueError('in the hook')"), "ValueError: in the hook"),
        (hooks("def toolkit_metrics():\n    return None"), f"toolkit_metrics returned None; {EXPECTED}"),
        (hooks("def toolkit_metrics():\n    return 3"), f"toolkit_metrics returned 3; {EXPECTED}"),
        (hooks("def toolkit_metrics():\n    yield 'rain'"), f"toolkit_metrics returned 'rain'; {EXPECTED}"),
        (
            hooks("def toolkit_metrics():\n    yield SignatureEntry(name='a', summary='s', signature='a.b:c')"),
            EXPECTED,
        ),
        (hooks(f"def toolkit_metrics():\n    yield {metric('not/a name')}"), "MetricEntry has the name 'not/a name'"),
        (
            hooks("def toolkit_metrics():\n    yield MetricEntry(name='a', summary='s', metric='no colon')"),
            "expected 'package.module:attribute'",
        ),
        (
            hooks(f"def toolkit_metrics():\n    yield {metric()}\n    yield {metric()}"),
            "dspy-toolkit-weather contributes the metric 'rain' twice",
        ),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_a_record_and_the_others_go_on(plugin_distribution, source, error):
    plugin_distribution("weather", source)
    plugin_distribution("sports", GOOD)
    manager = PluginManager(select="")
    assert {found.name for found in manager.check()} >= {"core", "sports", "weather"}
    assert error in record(manager, "weather").error
    assert "\n" not in record(manager, "weather").error
    assert record(manager, "sports").error is None
    assert manager.get(MetricEntry, "sports/rain")
    others_work(manager)


def test_the_other_hooks_of_a_plugin_with_one_bad_hook_still_count(plugin_distribution):
    plugin_distribution("weather", GOOD.replace("yield MetricEntry", "raise ValueError('broken'); yield MetricEntry"))
    manager = PluginManager(select="")
    assert manager.get(SignatureEntry, "weather/Forecast")
    with pytest.raises(PluginError, match="the plugin dspy-toolkit-weather is broken: ValueError: broken"):
        manager.get(MetricEntry, "weather/rain")


def test_two_distributions_with_one_project_are_both_named_and_neither_loads(plugin_distribution):
    plugin_distribution("weather", GOOD, distribution="dspy-toolkit-weather")
    plugin_distribution("weather", GOOD, distribution="other-weather")
    manager = PluginManager(select="")
    errors = [found.error for found in manager.records if found.name == "weather"]
    assert len(errors) == 2
    for error in errors:
        assert "'weather' is claimed by dspy-toolkit-weather and other-weather" in error
        assert "DSPY_TOOLKIT_PLUGINS=-other-weather" in error
    with pytest.raises(DuplicateNameError, match="dspy-toolkit-weather and other-weather"):
        manager.get(MetricEntry, "weather/rain")
    others_work(manager)


def test_blocking_one_of_two_rivals_brings_the_other(plugin_distribution):
    plugin_distribution("weather", GOOD, distribution="dspy-toolkit-weather")
    plugin_distribution("weather", GOOD, distribution="other-weather")
    manager = PluginManager(select="-other-weather")
    assert manager.get(MetricEntry, "weather/rain").distribution == "dspy-toolkit-weather"
    assert [found.blocked for found in manager.records if found.name == "weather"] == [False, True]


def test_nobody_else_can_be_core(plugin_distribution):
    plugin_distribution("core", GOOD, distribution="impostor")
    manager = PluginManager(select="")
    (impostor,) = [found for found in manager.records if found.distribution == "impostor"]
    assert "'core' is claimed by dspy-toolkit and impostor" in impostor.error
    others_work(manager)


def test_a_provider_name_that_two_claim_belongs_to_neither(plugin_distribution):
    plugin_distribution("alpha", provider("shared"))
    plugin_distribution("beta", provider("shared"))
    plugin_distribution("gamma", provider("other"))
    manager = PluginManager(select="")
    with pytest.raises(DuplicateNameError, match="'shared' is claimed by dspy-toolkit-alpha and dspy-toolkit-beta"):
        manager.provider("shared/model")
    for project in ("alpha", "beta"):
        assert "'shared' is claimed by dspy-toolkit-alpha and dspy-toolkit-beta" in record(manager, project).error
    assert manager.provider("other/model").distribution == "dspy-toolkit-gamma"
    assert PluginManager(select="-beta").provider("shared/model").distribution == "dspy-toolkit-alpha"


@pytest.mark.parametrize(
    "line", ["[some.group]\nx = this is : not valid !!\n", "no section = 1\n", "[dspy_toolkit\n", "\x00"]
)
def test_a_malformed_entry_point_of_a_stranger_hurts_nobody(plugin_distribution, line):
    plugin_distribution("weather", GOOD)
    folder = plugin_distribution("other", GOOD)
    (folder / "dspy_toolkit_other-1.0.dist-info" / "entry_points.txt").write_text(line)
    manager = PluginManager(select="")
    assert manager.get(MetricEntry, "weather/rain")
    others_work(manager)


@pytest.mark.parametrize("value", ["this is : not valid !!", "", "no.such_module", "1x"])
def test_a_malformed_entry_point_of_ours_is_that_plugins_error(plugin_distribution, value):
    plugin_distribution("weather", GOOD)
    folder = plugin_distribution("other", GOOD)
    (folder / "dspy_toolkit_other-1.0.dist-info" / "entry_points.txt").write_text(f"[dspy_toolkit]\nother = {value}\n")
    manager = PluginManager(select="")
    assert record(manager, "other").error
    assert manager.get(MetricEntry, "weather/rain")


def test_a_distribution_without_metadata_is_said_and_the_others_load(plugin_distribution, caplog):
    folder = plugin_distribution("weather", GOOD)
    (folder / "dspy_toolkit_weather-1.0.dist-info" / "METADATA").unlink()
    plugin_distribution("sports", GOOD)
    assert PluginManager(select="").get(MetricEntry, "sports/rain")
    assert "metadata of an installed distribution cannot be read" in caplog.text


NEVER = "import threading\n        threading.Event().wait()"


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nthreading.Event().wait()",
        hooks(f"def toolkit_metrics():\n    if True:\n        {NEVER}\n    yield"),
    ],
)
def test_a_plugin_that_never_returns_is_given_up(plugin_distribution, source):
    # A package of its own: its import stays locked as long as this process lives.
    plugin_distribution("weather", source, package="dspy_toolkit_never_returns")
    plugin_distribution("sports", GOOD)
    manager = PluginManager(select="", time_limit=0.2)
    manager.check()
    assert "takes longer than 0.2 s" in record(manager, "weather").error
    assert manager.get(MetricEntry, "sports/rain")


def test_a_hook_without_end_is_an_error(plugin_distribution):
    plugin_distribution("weather", hooks(f"def toolkit_metrics():\n    while True:\n        yield {metric()}"))
    manager = PluginManager(select="")
    manager.check()
    assert "more than 10000 entries" in record(manager, "weather").error


@pytest.mark.parametrize(
    "project", ["_x", "wetter-ä", "my project", "a/b", "aliases", "Signatures", "modules", "v1", "-x"]
)
def test_a_project_name_that_nothing_could_be_stored_under_is_refused_at_once(plugin_distribution, project):
    plugin_distribution(project, GOOD, distribution="stranger", package="stranger")
    plugin_distribution("sports", GOOD)
    manager = PluginManager(select="")
    assert f"stranger names its project {project!r}" in record(manager, project).error
    assert manager.get(MetricEntry, "sports/rain")


@pytest.mark.parametrize("name", ["aliases", "v3", "_x", "wetter-ä"])
def test_a_task_name_that_nothing_could_be_stored_under_is_refused_at_once(plugin_distribution, name):
    entry = f"TaskEntry(name={name!r}, summary='s', program='a.b:c', data='a.b:c', metric='rain')"
    plugin_distribution("weather", hooks(f"def toolkit_tasks():\n    yield {entry}", imports="TaskEntry"))
    manager = PluginManager(select="")
    manager.check()
    assert f"the name {name!r}" in record(manager, "weather").error


def test_a_misspelled_selection_is_named(plugin_distribution, caplog):
    plugin_distribution("helpdesk", GOOD)
    manager = PluginManager(select="helpdsk")
    assert manager.unknown_selected == ("helpdsk",)
    assert "DSPY_TOOLKIT_PLUGINS: No plugin named 'helpdsk'. Did you mean 'helpdesk'?" in caplog.text
    assert PluginManager(select="helpdesk,-dspy-toolkit-helpdesk").unknown_selected == ()


def test_a_plain_name_of_two_projects_must_be_qualified(plugin_distribution):
    plugin_distribution("alpha", hooks(f"def toolkit_metrics():\n    yield {metric()}"))
    plugin_distribution("beta", hooks(f"def toolkit_metrics():\n    yield {metric()}"))
    manager = PluginManager(select="")
    with pytest.raises(DuplicateNameError, match="name one of: alpha/rain, beta/rain"):
        manager.get(MetricEntry, "rain")
    assert manager.get(MetricEntry, "rain", project="beta").project == "beta"


@pytest.mark.parametrize(
    ("select", "loaded"),
    [
        ("", {"alpha", "beta"}),
        ("alpha", {"alpha"}),
        ("dspy-toolkit-beta", {"beta"}),
        ("-alpha", {"beta"}),
        (" -alpha , -beta ", set()),
        ("alpha,-alpha", set()),
        ("alpha,beta", {"alpha", "beta"}),
    ],
)
def test_plugins_are_picked_and_blocked_by_the_environment(plugin_distribution, monkeypatch, select, loaded):
    plugin_distribution("alpha", GOOD)
    plugin_distribution("beta", GOOD)
    monkeypatch.setenv("DSPY_TOOLKIT_PLUGINS", select)
    manager = PluginManager()
    assert {found.name for found in manager.records if found.name in ("alpha", "beta") and not found.blocked} == loaded
    assert {name.partition("/")[0] for name in manager.entries(MetricEntry)} & {"alpha", "beta"} == loaded
    others_work(manager)


def test_a_blocked_plugin_is_not_even_imported(plugin_distribution):
    plugin_distribution("weather", "raise RuntimeError('imported')")
    manager = PluginManager(select="-weather")
    assert record(manager, "weather").blocked
    assert record(manager, "weather").error is None
    with pytest.raises(UnknownNameError, match="blocked by DSPY_TOOLKIT_PLUGINS"):
        manager.get(MetricEntry, "weather/rain")


def test_unknown_names_come_with_what_exists_closest_first(plugin_distribution):
    plugin_distribution("weather", GOOD)
    manager = PluginManager(select="weather")
    with pytest.raises(
        UnknownNameError, match=r"No metric named 'weather/rian'. Did you mean 'weather/rain'\?"
    ) as caught:
        manager.get(MetricEntry, "weather/rian")
    assert caught.value.known[0] == "weather/rain"
    with pytest.raises(UnknownNameError, match="No installed plugin is called 'cooking'"):
        manager.get(TaskEntry, "cooking/soup")
    with pytest.raises(UnknownNameError, match="A model string starts with its provider"):
        manager.provider("gpt-x")


def test_strict_mode_raises_what_a_plugin_raised(plugin_distribution, monkeypatch):
    plugin_distribution("weather", "raise RuntimeError('at import')")
    monkeypatch.setenv("DSPY_TOOLKIT_STRICT", "1")
    with pytest.raises(RuntimeError, match="at import"):
        PluginManager(select="")


def test_registering_by_hand(plugin_manager, plugin_distribution):
    plugin_distribution("weather", GOOD)
    import dspy_toolkit_weather.hooks as module

    plugin_manager.register(module, project="mine", distribution="by-hand")
    assert plugin_manager.get(MetricEntry, "mine/rain").distribution == "by-hand"
    with pytest.raises(DuplicateNameError, match="by-hand and again"):
        plugin_manager.register(module, project="mine", distribution="again")
    plugin_manager.unregister("mine")
    with pytest.raises(UnknownNameError):
        plugin_manager.get(MetricEntry, "mine/rain")
    assert plugin_manager.entries(ProviderEntry) == {}
