"""Reports: one self-contained HTML page, its look shared by all of them."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from scramble._version import __version__


def render(package: str, template: str, *, title: str, **values: Any) -> str:
    """A page from a template that extends `page.html.j2`.

    Args:
        package: where the template is.
    """
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("scramble.present", ".")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(title=title, version=__version__, **values)
