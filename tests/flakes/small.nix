{
  outputs = { self }:
    let
      busybox = builtins.path { name = "tools"; path = ./tools; } + "/busybox";
      sh = name: script: derivation {
        inherit name script;
        system = "x86_64-linux";
        builder = busybox;
        args = [ "sh" "-euc" "busybox() { ${busybox} \"$@\"; }; ${script}" ];
      };
      plain = name: script: sh name "${script}; echo > $out";
      driver = name: script: sh "nixos-test-driver-${name}" ''
        busybox mkdir -p $out/bin
        echo '#!${busybox} sh
        busybox() { ${busybox} "$@"; }
        ${script}' > $out/bin/nixos-test-driver
        busybox chmod +x $out/bin/nixos-test-driver
      '';
      vm = name: script: sh "vm-test-run-${name}" "echo ${builtins.hashString "sha256" script} > $out" // {
        driver = driver name script;
        nodes.machine.virtualisation = { memorySize = 256; cores = 2; };
      };
    in
    {
      checks.x86_64-linux = {
        # CHECKS
      };
    };
}
