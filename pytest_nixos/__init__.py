"""pytest-nixos: the checks of a Nix flake as pytest items, NixOS VM tests above all."""

__version__ = "0.1.0"
