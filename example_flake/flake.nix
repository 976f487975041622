{
  description = "Hosts with tests, on Debian's packages: needs no network and no nixpkgs";

  # Run ./setup, then override this with the folder it names. Until then it is the flake itself, which has no
  # parts.json, and each check says what to do. So the flake needs no lock file.
  inputs.debian = { follows = ""; flake = false; };

  outputs = { self, debian }:
    let
      system = "x86_64-linux";
      lib = import ./lib { inherit system debian; };
    in
    {
      checks.${system} = {
        web = import ./hosts/web.nix { inherit lib; };
        db = import ./hosts/db.nix { inherit lib; };
        cluster = import ./hosts/cluster.nix { inherit lib; };
        login = import ./hosts/login.nix { inherit lib; };
        lint = import ./hosts/lint.nix { inherit lib; };
      };
      packages.${system} = { inherit (lib) initrd tools; };
      legacyPackages.${system} = {
        inherit (lib) closureInfo;
        stages = import ./hosts/stages.nix { inherit lib; }; # for the tests of the test driver
      };
    };
}
