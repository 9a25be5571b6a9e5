"""``python -m flautim_lab.cli`` is the command line."""

from flautim_lab.cli import main

main()
