"""Packages that only some metrics need."""

import importlib
from types import ModuleType

from s2s.errors import UserError, install


def package(metric: str, module: str, command: str | None = None) -> ModuleType:
    """Import a module that a metric needs.

    Args:
        metric: Name of the metric.
        module: Name of the module.
        command: The command that installs it; None: that of the extra `metrics`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        raise UserError(
            f"metric '{metric}' needs the package {top}: {command or install('metrics')} ({error})"
        ) from error
