# A check without machines: the guest's scripts must parse.
{ lib }:
let
  script = name: builtins.path { name = baseNameOf name; path = ../guest + "/${name}"; };
in
lib.mkDerivation {
  name = "lint";
  scripts = map script [ "init" "backdoor" "halt" "systemd/enter" ];
  script = ''
    for file in $scripts; do
      echo "checking ''${file##*-}"
      ${lib.tools}/bin/bash -n "$file"
      sh -n "$file"
    done
    echo "all scripts parse" > "$out"
  '';
}
