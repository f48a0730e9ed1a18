"""`check_plugin("lora")`: everything the toolkit expects of a plugin, checked in one line of the plugin's own tests."""

__all__ = ["check_plugin"]


def check_plugin(project: str) -> None:
    """Raise AssertionError listing everything that is wrong with the installed plugin of this project."""
    raise NotImplementedError
