"""An example plugin: will it rain tomorrow?"""
