from dspy_toolkit.testing import check_plugin


def test_the_plugin_conforms():
    check_plugin("lora")
