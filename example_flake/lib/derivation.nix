# mkDerivation and friends, on nothing but a static busybox.
{ system, busybox }:
rec {
  # A derivation built by a busybox shell script; further attributes become its environment.
  mkDerivation = { name, script, ... }@args: derivation ({
    inherit system;
    builder = "${busybox}/bin/sh";
    args = [ "-euc" script ];
    PATH = "${busybox}/bin";
  } // removeAttrs args [ "script" ]);

  writeText = name: text: mkDerivation {
    inherit name text;
    passAsFile = [ "text" ];
    script = ''cp "$textPath" "$out"'';
  };

  # An executable at bin/<program> of its own package.
  writeScript = { name, program, text }: mkDerivation {
    inherit name program text;
    passAsFile = [ "text" ];
    script = ''
      mkdir -p "$out/bin"
      cp "$textPath" "$out/bin/$program"
      chmod +x "$out/bin/$program"
    '';
  };
}
