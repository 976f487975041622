# The guest's root file system: busybox, kernel modules and the scripts of ../guest. The same for all machines.
{ mkDerivation, busybox, kernel }:
let
  script = name: builtins.path { inherit name; path = ../guest + "/${name}"; };
in
mkDerivation {
  name = "example-initrd";
  inherit busybox kernel;
  init = script "init";
  backdoor = script "backdoor";
  halt = script "halt";
  inittab = script "inittab";
  systemd = script "systemd";
  script = ''
    mkdir root && cd root
    mkdir -p bin dev etc lib nix/store proc root run sys tmp/shared tmp/xchg usr var
    cp -R "$busybox"/bin/* bin
    chmod -R u+w bin
    cp -R "$kernel/modules" lib/modules
    ln -s ../bin usr/bin
    ln -s bin sbin
    cp "$init" init
    cp "$backdoor" bin/backdoor
    for name in poweroff reboot halt; do
      rm "bin/$name"
      cp "$halt" "bin/$name"
    done
    chmod +x init bin/*
    cp "$inittab" etc/inittab
    cp -R "$systemd" systemd
    chmod -R u+w systemd
    mkdir -p systemd/root/usr/local/sbin
    cp bin/backdoor systemd/root/usr/local/sbin
    echo "root:x:0:0:root:/root:/bin/bash" > etc/passwd
    echo "root:x:0:" > etc/group
    chmod u+w etc/inittab
    find . -exec touch -h -d @1 {} +
    find . | sort | cpio -o -H newc --quiet > "$out"
  '';
}
