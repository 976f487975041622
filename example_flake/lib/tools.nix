# Debian's programs made at home in the store: their loader and libraries are this package's own.
{ mkDerivation, programs }:
mkDerivation {
  name = "debian-tools";
  inherit programs;
  script = ''
    cp -R "$programs" "$out"
    chmod -R u+w "$out"
    patch() {
      "$programs/lib/ld-linux-x86-64.so.2" --library-path "$programs/lib" "$programs/bin/patchelf" "$@"
    }
    # A forced rpath of a program holds for all libraries and plugins that it loads: they need no patching.
    for program in "$out"/bin/*; do
      patch --set-interpreter "$out/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$out/lib" "$program"
    done
    rm "$out/bin/patchelf"
    ln -s bash "$out/bin/sh"
    ln -s nc.openbsd "$out/bin/nc"
    for python in "$out"/bin/python3.*; do
      ln -s "''${python##*/}" "$out/bin/python3"
    done
    # Compiled once, here: the store is read-only when a test runs. Unchecked: times in the store mean nothing.
    "$out/bin/python3" -m compileall -q --invalidation-mode unchecked-hash "$out"/lib/python3*
  '';
}
