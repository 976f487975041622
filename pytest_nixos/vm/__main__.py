"""`python -m pytest_nixos.vm`: see cli.py."""

import sys

from pytest_nixos.vm.cli import main

sys.exit(main())
