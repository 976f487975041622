# What the plugin wants to know of some checks, in one evaluation that shares their package set.
# names: the attributes to describe; checks: the attribute set that holds them. The result is JSON.
names: checks:
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

  describe = attr:
    let drv = checks.${attr};
    in if !isDerivation drv
       then { inherit attr; error = "the attribute is not a derivation, but a ${builtins.typeOf drv}"; }
       else {
         inherit attr;
         derivation = derivation drv;
         driver = if isDerivation (drv.driver or null) then derivation drv.driver else null;
         nodes = if isDerivation (drv.driver or null) then nodes drv else [ ];
         timeout = attempt null (drv.meta.timeout or drv.config.globalTimeout or null);
       };
in
map describe names
