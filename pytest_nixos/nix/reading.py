"""Files of the Nix store, read without asking Nix."""

from pytest_nixos.model import Derivation
from pytest_nixos.nix.derivation import own_outputs, parse

_LARGEST_FILE = 16 << 20


def read_file(path: str) -> bytes | None:
    """A file of the store; None for what is not there, is no file, or is larger than 16 MiB."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - many of them are read
            content = file.read(_LARGEST_FILE + 1)
    except OSError:
        return None
    return content if len(content) <= _LARGEST_FILE else None


def is_own_output(derivation: Derivation) -> bool:
    """Whether the derivation's own file names its default output; False where it is not in the store."""
    data = read_file(derivation.drv_path)
    try:
        return data is not None and derivation.out_path in own_outputs(parse(data)).values()
    except ValueError:
        return False
