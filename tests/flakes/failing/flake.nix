{
  description = "VM checks that go wrong, each in its own way";

  # As in example_flake: overridden with the folder that example_flake/setup names.
  inputs.debian = { follows = ""; flake = false; };

  outputs = { self, debian }:
    let
      system = "x86_64-linux";
      lib = import ../../../example_flake/lib { inherit system debian; };
      vm = name: globalTimeout: testScript: lib.runTest {
        inherit name globalTimeout testScript;
        nodes.machine.virtualisation.memorySize = 192;
      };
    in
    {
      checks.${system} = {
        # The guest prints what a terminal and a CI would obey; then the script fails, so that its console is shown.
        escapes = vm "escapes" 600 ''
          machine.succeed(r"printf '\033[2J\033]0;owned\007\n::error::owned\n::set-output name=x::owned\n' > /dev/ttyS0")
          machine.succeed("echo last words; exit 7")
        '';

        panic = vm "panic" 600 ''
          machine.succeed("echo 1 > /proc/sys/kernel/sysrq")
          machine.succeed("echo c > /proc/sysrq-trigger")
        '';

        # Never comes up: the kernel's first process waits for input. The test's own limit ends it.
        hang = vm "hang" 10 ''
          import os
          os.environ["QEMU_KERNEL_PARAMS"] = "rdinit=/bin/cat"
          machine.succeed("true")
        '';

        # Prints megabytes, and passes.
        flood = vm "flood" 600 ''
          machine.succeed("seq 1 160000 > /dev/ttyS0", "echo end of the flood > /dev/ttyS0")
          machine.wait_for_console_text("end of the flood")
        '';

        nodriver = vm "nodriver" 600 "pass" // {
          driver = lib.mkDerivation { name = "nixos-test-driver-nodriver"; script = "echo wrong parts; exit 3"; };
        };

        throws = throw "this host is not ready";
      };
    };
}
