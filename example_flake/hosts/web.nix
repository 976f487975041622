# A web server, and a test that fetches its page from the host itself.
{ lib }:
lib.runTest {
  name = "web";
  nodes.web = {
    services.httpd.script = ''
      mkdir -p /run/www
      echo "hello from $(hostname)" > /run/www/index.html
      exec httpd -f -p 80 -h /run/www
    '';
  };
  testScript = ''
    start_all()
    web.wait_for_open_port(80)
    with subtest("the page is served"):
        page = web.succeed("wget -q -O - http://localhost/")
        assert "hello from web" in page, page
    with subtest("a missing page is an error"):
        web.fail("wget -q -O - http://localhost/missing")
  '';
}
