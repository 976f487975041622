# closureInfo { rootPaths } as in nixpkgs: a derivation with `store-paths` (one path a line) and `registration` (the
# text that `nix-store --load-db` reads) of everything that rootPaths need.
{ system, busybox, tools }:
{ rootPaths }:
derivation {
  name = "closure-info";
  inherit system;
  __structuredAttrs = true; # only this form of exportReferencesGraph tells hashes and sizes
  exportReferencesGraph.closure = rootPaths;
  builder = "${busybox}/bin/env"; # gives Python its full path, by which it finds its library
  args = [ "${tools}/bin/python3" "-c" ''
    import json
    from pathlib import Path

    attrs = json.loads(Path(".attrs.json").read_text())
    out = Path(attrs["outputs"]["out"])
    closure = sorted(attrs["closure"], key=lambda item: item["path"])
    out.mkdir()
    (out / "total-nar-size").write_text(f"{sum(item['narSize'] for item in closure)}\n")
    (out / "store-paths").write_text("".join(item["path"] + "\n" for item in closure))
    with (out / "registration").open("w") as stream:
        for item in closure:
            refs = item["references"]
            for line in (item["path"], item["narHash"], item["narSize"], "", len(refs), *refs):
                stream.write(f"{line}\n")
  '' ];
}
