# runTest: machines and a test script -> a check `vm-test-run-<name>` with the attributes of a NixOS test.
{ machine, mkDerivation, tools, writeScript, writeText }:
{ name, nodes, testScript, globalTimeout ? 600, meta ? { } }:
let
  names = builtins.attrNames nodes;
  numbers = builtins.genList (n: n + 1) (builtins.length names);
  vlansOf = node: node.virtualisation.vlans or [ ];
  address = node: number: "192.168.${toString (builtins.head (vlansOf node))}.${toString number}";
  # A machine is known by its address on its first VLAN, or not at all.
  hostLine = number:
    let host = builtins.elemAt names (number - 1); node = nodes.${host};
    in if vlansOf node == [ ] then "" else "${address node number} ${host}\n";
  hosts = builtins.concatStringsSep "" (map hostLine numbers);

  build = number:
    let host = builtins.elemAt names (number - 1);
    in { name = host; value = machine { name = host; inherit number hosts; node = nodes.${host}; }; };
  machines = builtins.listToAttrs (map build numbers);

  startScripts = map (host: "${machines.${host}.system.build.vm}/bin/run-${host}-vm") names;
  vlans = unique (builtins.concatMap (host: machines.${host}.virtualisation.vlans) names);
  unique = builtins.foldl' (seen: item: if builtins.elem item seen then seen else seen ++ [ item ]) [ ];
  testScriptString = if builtins.isFunction testScript then testScript { nodes = machines; } else testScript;

  # Only these files: other changes to the plugin must not change a check's derivation.
  sources = builtins.path {
    name = "pytest-nixos-vm-source";
    path = ../../pytest_nixos;
    filter = path: type:
      let file = baseNameOf path; folder = baseNameOf (dirOf path);
      in if type == "directory" then file == "vm"
      else if folder == "vm" then builtins.match ".*\\.py" file != null
      else builtins.elem file [ "__init__.py" "deadline.py" "errors.py" "model.py" "proc.py" ];
  };
  library = mkDerivation {
    name = "pytest-nixos-vm";
    inherit sources tools;
    script = ''
      mkdir "$out"
      cp -R "$sources" "$out/pytest_nixos"
      chmod -R u+w "$out"
      "$tools/bin/python3" -m compileall -q --invalidation-mode unchecked-hash "$out"
    '';
  };

  driver = writeScript {
    name = "nixos-test-driver-${name}";
    program = "nixos-test-driver";
    text = ''
      #!${tools}/bin/bash
      export startScripts="''${startScripts-${toString startScripts}}"
      export vlans="''${vlans-${toString vlans}}"
      export testScript="''${testScript-${writeText "test-script-${name}" testScriptString}}"
      export globalTimeout="''${globalTimeout-${toString globalTimeout}}"
      export PYTHONPATH=${library}
      export PATH=${tools}/bin''${PATH:+:$PATH}
      # -P: a pytest_nixos in the current folder must not shadow the store's.
      exec ${tools}/bin/python3 -P -s -m pytest_nixos.vm "$@"
    '';
  };
  driverInteractive = writeScript {
    name = "nixos-test-driver-${name}-interactive";
    program = "nixos-test-driver";
    text = "#!${tools}/bin/bash\nexec ${driver}/bin/nixos-test-driver --interactive \"$@\"\n";
  };

  check = mkDerivation {
    name = "vm-test-run-${name}";
    requiredSystemFeatures = [ "nixos-test" ];
    # TCG always: a /dev/kvm that opens may still not run a guest, and nobody could tell Nix in time.
    QEMU_OPTS = "-machine accel=tcg";
    script = ''
      mkdir "$out"
      ${driver}/bin/nixos-test-driver -o "$out"
    '';
  };
in
check // {
  inherit driver driverInteractive;
  nodes = machines;
  config = { inherit name globalTimeout testScriptString; nodes = machines; };
  meta = { timeout = globalTimeout; } // meta;
}
