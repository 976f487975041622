# What a machine with `guest = "systemd"` has besides guest.nix' configuration, read by ../guest/systemd/enter: a
# folder `root` of files to add to Debian's, and the lines of the node's users for passwd, group and shadow.
#
# Of the node: services.<name> { script, unit ? "" (more lines), start ? true }, wants ? [ unit ], etc ? { <path> = text },
# users ? { <name>.password ? "" }, initrdBackdoor ? false (whether it waits in an initrd for switch_root).
{ mkDerivation, writeText }:
{ name, config, node }:
let
  services = node.services or { };
  names = builtins.attrNames;
  lines = f: set: builtins.concatStringsSep "" (map (key: "${f key set.${key}}\n") (names set));

  unit = service: options: ''
    [Unit]
    Description=${service}, a service of the test
    [Service]
    ExecStart=${config}/services/${service}
    ${options.unit or ""}
  '';
  units = builtins.listToAttrs
    (map (key: { name = "systemd/system/${key}.service"; value = unit key services.${key}; }) (names services));
  started = builtins.filter (key: services.${key}.start or true) (names services);
  wants = [ "backdoor.service" "getty@tty1.service" ] ++ map (key: "${key}.service") started ++ (node.wants or [ ]);
in
mkDerivation {
  name = "systemd-${name}";
  inherit config wants;
  initrdBackdoor = if node.initrdBackdoor or false then "1" else "";
  files = lines (path: text: "${path} ${writeText (baseNameOf path) text}") (units // (node.etc or { }));
  users = lines (user: options: "${user} ${options.password or ""}") (node.users or { });
  script = ''
    mkdir "$out"
    cp -R "$config"/. "$out"
    chmod u+w "$out" "$out/config"
    echo "initrdBackdoor=$initrdBackdoor" >> "$out/config"
    wanted=$out/root/etc/systemd/system/multi-user.target.wants
    mkdir -p "$wanted"
    ln -s /lib/systemd/system/multi-user.target "$out/root/etc/systemd/system/default.target"
    for unit in $wants; do
      ln -s "/lib/systemd/system/$unit" "$wanted/$unit"
    done
    printf %s "$files" | while read -r path text; do
      mkdir -p "$out/root/etc/$(dirname "$path")"
      cp "$text" "$out/root/etc/$path"
    done

    touch "$out/passwd" "$out/group" "$out/shadow"
    uid=1000
    printf %s "$users" | while read -r user password; do
      echo "$user:x:$uid:$uid::/home/$user:/bin/bash" >> "$out/passwd"
      echo "$user:x:$uid:" >> "$out/group"
      echo "$user:$(mkpasswd -m sha512 -S "$user" "$password"):20000:0:99999:7:::" >> "$out/shadow"
      uid=$((uid + 1))
    done
  '';
}
