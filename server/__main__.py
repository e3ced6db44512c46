"""``python -m suffice.server`` is the ``suffice`` command."""

from suffice.server.cli import main

main()
