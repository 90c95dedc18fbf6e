"""Calls functions of tests.gpu.inside. This module does not import torch, so that a process can load the stand-in
before it."""

import importlib


def call(name: str, *arguments, **options):
    """Call the function `name` of tests.gpu.inside."""
    return getattr(importlib.import_module("tests.gpu.inside"), name)(*arguments, **options)
