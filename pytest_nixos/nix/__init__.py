"""Nix: evaluate a flake, build derivations, copy closures. Knows no pytest, no VM and no records."""
