"""Runs the command line: `python -m ops.cli`."""

from ops.cli.main import main

main()
