"""The way to `adapters/` for whoever imports masklib from the folder of a clone; no part of what is installed.

`masklib.adapters` is kept beside `masklib/`, and only an installation puts one into the other. Python looks into the
current folder first, so in a clone it would find `masklib/` without adapters.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "adapters")]
_source = Path(__path__[0], "__init__.py")
exec(compile(_source.read_text(encoding="utf-8"), _source, "exec"))
