# One machine's configuration as a store path, read by ../guest/init: a folder with `config` (shell variables),
# `hosts` and `services/<name>` (one executable for each service).
{ mkDerivation, writeScript, tools }:
{ name, number, vlans, hosts, services, graphics }:
let
  service = service: { script, ... }: writeScript {
    name = "service-${name}-${service}";
    program = service;
    text = "#!${tools}/bin/bash\nset -eu\n${script}";
  };
  packages = map (key: service key services.${key}) (builtins.attrNames services);
in
mkDerivation {
  name = "guest-${name}";
  inherit hosts packages;
  config = ''
    hostname=${name}
    number=${toString number}
    vlans="${toString vlans}"
    tools=${tools}
    graphics=${if graphics then "1" else ""}
  '';
  script = ''
    mkdir -p "$out/services"
    printf %s "$config" > "$out/config"
    printf %s "$hosts" > "$out/hosts"
    for package in $packages; do
      ln -s "$package"/bin/* "$out/services"
    done
  '';
}
