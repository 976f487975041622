# A key-value store on disk, and a test that pulls the plug.
{
  name = "db";
  globalTimeout = 900;
  nodes.db = { pkgs, ... }: {
    services.redis.servers."" = {
      enable = true;
      appendOnly = true;
      appendFsync = "always";
    };
    environment.systemPackages = [ pkgs.redis ];
  };
  testScript = ''
    def ask(request: str) -> str:
        return db.succeed(f"redis-cli {request}").strip()

    def start() -> None:
        db.start()
        db.wait_for_unit("redis.service")
        db.wait_for_open_port(6379)

    start()
    with subtest("the store answers"):
        assert ask("set colour green") == "OK"
        assert ask("get colour") == "green"

    with subtest("data survives an orderly stop"):
        db.shutdown()
        start()
        assert ask("get colour") == "green"

    with subtest("data survives a power cut"):
        ask("set colour blue")
        db.crash()
        start()
        assert ask("get colour") == "blue"
  '';
}
