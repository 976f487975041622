# Two web servers behind a balancer, on one virtual network.
let
  backend = name: { pkgs, ... }: {
    services.nginx = {
      enable = true;
      virtualHosts.${name} = {
        default = true;
        root = pkgs.writeTextDir "index.html" "${name}\n";
      };
    };
    networking.firewall.allowedTCPPorts = [ 80 ];
  };
in
{
  name = "cluster";
  globalTimeout = 900;
  nodes = {
    alpha = backend "alpha";
    beta = backend "beta";
    balancer = {
      services.nginx = {
        enable = true;
        upstreams.backends.servers = {
          "alpha:80" = { };
          "beta:80" = { };
        };
        virtualHosts.balancer = {
          default = true;
          locations."/".proxyPass = "http://backends";
        };
      };
      networking.firewall.allowedTCPPorts = [ 80 ];
    };
  };
  testScript = ''
    start_all()
    for machine in (alpha, beta, balancer):
        machine.wait_for_unit("nginx.service")
        machine.wait_for_open_port(80)

    with subtest("hosts know one another by name"):
        balancer.succeed("ping -c 1 alpha", "ping -c 1 beta")

    with subtest("each backend serves itself"):
        for name in ("alpha", "beta"):
            assert balancer.succeed(f"curl --fail --silent http://{name}/").strip() == name

    with subtest("the balancer takes turns"):
        answers = {alpha.succeed("curl --fail --silent http://balancer/").strip() for _ in range(4)}
        assert answers == {"alpha", "beta"}, answers

    with subtest("a backend that is gone is missed"):
        beta.shutdown()
        balancer.fail("curl --fail --silent --max-time 5 http://beta/")
  '';
}
