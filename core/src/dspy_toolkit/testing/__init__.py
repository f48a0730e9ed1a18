"""Testing programs and plugins, as a pytest plugin: a scripted LM, plugins on disk, a conformance check.

Installed with the core, so `plugin_manager` is a fixture in every project that has it. Importing this module imports
neither dspy nor a plugin; the names below are loaded when first used.
"""
