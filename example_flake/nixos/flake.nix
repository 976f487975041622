# Not run here: needs nixpkgs. The hosts of ../hosts as NixOS configurations, tested by nixpkgs' own driver.
{
  description = "NixOS hosts with tests, for pytest-nixos";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { nixpkgs, ... }:
    let
      eachSystem = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ];
    in
    {
      checks = eachSystem (system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          web = pkgs.testers.runNixOSTest ./hosts/web.nix;
          db = pkgs.testers.runNixOSTest ./hosts/db.nix;
          cluster = pkgs.testers.runNixOSTest ./hosts/cluster.nix;
          lint = pkgs.runCommand "lint" { nativeBuildInputs = [ pkgs.deadnix ]; } ''
            deadnix --fail ${./hosts}
            touch "$out"
          '';
        });
    };
}
