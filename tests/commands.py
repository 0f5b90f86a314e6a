"""The command line in the process of a test."""

from __future__ import annotations

from masklib.adapters import cli


def run(text, capsys):
    """The exit status, stdout and stderr of a command."""
    try:
        status = cli.main(text.split())
    except SystemExit as stopped:
        status = stopped.code
    return (status, *capsys.readouterr())
