# Two web servers behind a balancer, on one virtual network.
{ lib }:
let
  backend = {
    virtualisation.vlans = [ 1 ];
    virtualisation.memorySize = 192;
    services.httpd.script = ''
      mkdir -p /run/www
      hostname > /run/www/index.html
      exec httpd -f -p 80 -h /run/www
    '';
  };
in
lib.runTest {
  name = "cluster";
  nodes = {
    alpha = backend;
    beta = backend;
    balancer = {
      virtualisation.vlans = [ 1 ];
      virtualisation.memorySize = 192;
      # Takes turns: one connection to alpha, the next to beta.
      services.balance.script = ''
        while true; do
          for backend in alpha beta; do
            busybox nc -l -p 80 -e ${lib.tools}/bin/nc "$backend" 80 || sleep 0.2
          done
        done
      '';
    };
  };
  testScript = ''
    start_all()
    for machine in (alpha, beta):
        machine.wait_for_open_port(80)

    with subtest("hosts know one another by name"):
        balancer.succeed("ping -c 1 alpha", "ping -c 1 beta")

    with subtest("each backend serves itself"):
        for name in ("alpha", "beta"):
            assert balancer.succeed(f"wget -q -O - http://{name}/").strip() == name

    with subtest("the balancer takes turns"):
        answers = {alpha.wait_until_succeeds("wget -q -O - http://balancer/").strip() for _ in range(4)}
        assert answers == {"alpha", "beta"}, answers

    with subtest("a backend that is gone is missed"):
        beta.shutdown()
        balancer.fail("wget -q -T 2 -O - http://beta/")
  '';
}
