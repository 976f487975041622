# What the plugin wants to know of checks: two functions.
#
# `one` describes a check that is a derivation.
#
# `answers` describes some checks, in one evaluation that shares their package set, and says so while it evaluates, on
# stderr, a line for each check as soon as it is known: `mark` and JSON. The first line has all names.
# ranges: which checks, by their position among the names, as a list of { from, step, count }, or null for all.
# checks: the attribute set that holds them.
let
  plain = builtins.unsafeDiscardStringContext;
  isDerivation = value: builtins.isAttrs value && value.type or null == "derivation";

  # A part that may be missing or broken without the check being so.
  attempt = fallback: value:
    let tried = builtins.tryEval (builtins.deepSeq value value);
    in if tried.success then tried.value else fallback;

  asList = value: if builtins.isList value then value else if builtins.isString value then [ value ] else [ ];

  # An output path of a content-addressed derivation is a placeholder, not a store path.
  outPath = output:
    let path = plain output.outPath;
    in if builtins.substring 0 (builtins.stringLength builtins.storeDir) path == builtins.storeDir then path else null;

  derivation = drv: {
    drv_path = plain drv.drvPath;
    outputs = builtins.listToAttrs (map (name: { inherit name; value = outPath drv.${name}; }) (drv.outputs or [ "out" ]));
    features = asList (drv.requiredSystemFeatures or [ ]);
    fixed = (drv.drvAttrs or drv) ? outputHash;
  };

  # Older test frameworks hand on the whole evaluation of a node, newer ones its configuration.
  node = name: value:
    let virtualisation = value.virtualisation or value.config.virtualisation or { };
    in { inherit name; memory_mib = virtualisation.memorySize or 1024; cores = virtualisation.cores or 1; };

  nodes = drv: attempt [ ] (map (name: node name drv.nodes.${name}) (builtins.attrNames (drv.nodes or { })));

in
rec {
  one = drv: {
    derivation = derivation drv;
    driver = if isDerivation (drv.driver or null) then derivation drv.driver else null;
    nodes = if isDerivation (drv.driver or null) then nodes drv else [ ];
    timeout = attempt null (drv.meta.timeout or drv.config.globalTimeout or null);
    # Whatever is not plainly "yes" means no: a check that may not want records gets none.
    recorded = attempt false (drv.pytestNixos.record or true) == true;
  };

  answers = { mark, ranges }: checks:
    let
      describe = position:
        let
          attr = builtins.elemAt names position;
          drv = checks.${attr};
          error = "the attribute is not a derivation, but a ${builtins.typeOf drv}";
        in { inherit position attr; } // (if isDerivation drv then one drv else { inherit error; });

      names = builtins.attrNames checks;
      all = [ { from = 0; step = 1; count = builtins.length names; } ];
      positions = range: builtins.genList (i: range.from + i * range.step) range.count;
      say = value: builtins.trace "${mark}${builtins.toJSON value}" null;
    in
    builtins.seq (say { inherit names; })
      (builtins.foldl' (_: position: say (describe position)) null
        (builtins.concatMap positions (if ranges == null then all else ranges)));
}
