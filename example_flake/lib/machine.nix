# A node of a test -> its options and `system.build.vm` with bin/run-<name>-vm, the start script.
#
# A node is { virtualisation ? { memorySize (MiB), cores, vlans (numbers), diskSize (MiB), graphics },
# services ? { <name>.script }, guest ? "busybox" }; systemd.nix tells what one with `guest = "systemd"` has besides.
{ writeScript, guestConfig, systemdConfig, tools, kernel, initrd, image }:
{ name, number, node, hosts }:
let
  virtualisation = { memorySize = 256; cores = 1; vlans = [ ]; diskSize = 256; graphics = false; } // (node.virtualisation or { });
  inherit (virtualisation) cores diskSize graphics memorySize vlans;
  services = node.services or { };
  busyboxConfig = guestConfig { inherit name number vlans hosts services graphics; };
  systemd = node.guest or "busybox" == "systemd";
  config = if systemd then systemdConfig { inherit name node; config = busyboxConfig; } else busyboxConfig;

  # 5 -> "05", 18 -> "12": the two digits of a MAC address.
  hexDigit = n: builtins.substring n 1 "0123456789abcdef";
  hex = n: hexDigit (n / 16) + hexDigit (n - (n / 16) * 16);
  nic = vlan: ''
    -netdev vde,id=vlan${toString vlan},sock="$QEMU_VDE_SOCKET_${toString vlan}"
    -device virtio-net-pci,romfile=,netdev=vlan${toString vlan},mac=52:54:00:12:${hex vlan}:${hex number}
  '';
  share = tag: path: ''-virtfs local,path=${path},security_model=none,mount_tag=${tag}'';
  # Self-tests, hardening and ACPI's program for each interrupt, which cost an emulated processor seconds.
  fastBoot = "acpi=noirq cryptomgr.notests no_timer_check mitigations=off audit=0";
  variable = builtins.replaceStrings [ "-" "." ] [ "_" "_" ] name;

  vm = writeScript {
    name = "nixos-vm-${name}"; # not run-…-vm: upstream's driver would look for the machine's name in it
    program = "run-${name}-vm";
    text = ''
      #!${tools}/bin/bash
      # Starts ${name} in QEMU; the environment that it reads is that of NixOS' run-<name>-vm scripts.
      set -eu
      export PATH=${tools}/bin''${PATH:+:$PATH}
      if [[ -z "''${TMPDIR:-}" || -z "''${USE_TMPDIR:-}" ]]; then
        TMPDIR=$(mktemp -d -t nix-vm.XXXXXXXXXX)
      fi
      export TMPDIR
      disk=$(realpath -m "''${NIX_DISK_IMAGE:-./${name}.qcow2}")
      if [[ ! -e "$disk" ]]; then
        qemu-img create -q -f qcow2 "$disk" ${toString diskSize}M
      fi
      mkdir -p "$TMPDIR/xchg"
      shared=''${SHARED_DIR:-$TMPDIR/xchg}
      cd "$TMPDIR"
      options=(
        -name ${name}
        -machine pc,accel=kvm:tcg -cpu max -m ${toString memorySize} -smp ${toString cores}
        -nodefaults -vga ${if graphics then "std" else "none"} -no-user-config
        -kernel "''${NIXPKGS_QEMU_KERNEL_${variable}:-${kernel}/vmlinux}" -initrd ${initrd}
        -append "console=ttyS0 quiet panic=1 ${fastBoot} guest=${config} ''${QEMU_KERNEL_PARAMS:-}"
        -drive "file=$disk,if=virtio,format=qcow2,cache=writeback,werror=report"
        ${if systemd then "-drive file=${image},if=virtio,format=raw,readonly=on" else ""}
        ${share "nix-store" "/nix/store,readonly=on"}
        ${share "shared" ''"$shared"''}
        ${share "xchg" ''"$TMPDIR/xchg"''}
        -netdev "user,id=user.0''${QEMU_NET_OPTS:+,$QEMU_NET_OPTS}"
        -device virtio-net-pci,romfile=,netdev=user.0
        ${builtins.concatStringsSep "  " (map nic vlans)}
      )
      # Unquoted: QEMU_OPTS holds several options.
      exec qemu-system-x86_64 "''${options[@]}" ''${QEMU_OPTS:-} "$@"
    '';
  };
in
{
  inherit name services virtualisation;
  system.build.vm = vm;
}
