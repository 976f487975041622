# A web server, and a test that fetches its page from the host itself.
{
  name = "web";
  globalTimeout = 600;
  nodes.web = { pkgs, ... }: {
    services.nginx = {
      enable = true;
      virtualHosts.localhost.root = pkgs.writeTextDir "index.html" "hello from web\n";
    };
    networking.firewall.allowedTCPPorts = [ 80 ];
  };
  testScript = ''
    start_all()
    web.wait_for_unit("nginx.service")
    web.wait_for_open_port(80)
    with subtest("the page is served"):
        page = web.succeed("curl --fail --silent http://localhost/")
        assert "hello from web" in page, page
    with subtest("a missing page is an error"):
        web.fail("curl --fail --silent http://localhost/missing")
  '';
}
