# The test library: what nixpkgs' `pkgs.testers` is to a NixOS flake, small enough to need no nixpkgs.
#
#   system   "x86_64-linux"
#   debian   the folder that example_flake/setup wrote (the flake input of that name)
#
# runTest { name, nodes, testScript, globalTimeout ? 600 s, meta ? {} } gives a check with the attributes of a NixOS test.
{ system, debian }:
let
  parts = import ./parts.nix { inherit system debian; };
  inherit (import ./derivation.nix { inherit system; busybox = parts.debian-busybox; }) mkDerivation writeScript writeText;
  tools = import ./tools.nix { inherit mkDerivation; programs = parts.debian-programs; };
  kernel = parts.debian-kernel;
  busybox = parts.debian-busybox;
  image = parts.debian-systemd;
  initrd = import ./initrd.nix { inherit mkDerivation busybox kernel; };
  guestConfig = import ./guest.nix { inherit mkDerivation writeScript tools; };
  systemdConfig = import ./systemd.nix { inherit mkDerivation writeText; };
  machine = import ./machine.nix { inherit writeScript guestConfig systemdConfig tools kernel initrd image; };
in
{
  inherit busybox initrd kernel mkDerivation system tools writeScript writeText;
  closureInfo = import ./closure-info.nix { inherit system busybox tools; };
  runTest = import ./test.nix { inherit machine mkDerivation tools writeScript writeText; };
}
