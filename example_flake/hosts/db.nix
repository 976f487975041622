# A key-value store on disk, and a test that pulls the plug.
{ lib }:
lib.runTest {
  name = "db";
  nodes.db = {
    virtualisation.diskSize = 128;
    # One request a connection: "set KEY VALUE" or "get KEY".
    services.kv.script = ''
      mkdir -p /var/lib/kv
      answer() {
        read -r verb key value
        case "$verb" in
          set) echo "$value" > "/var/lib/kv/$key"; sync; echo ok ;;
          get) cat "/var/lib/kv/$key" ;;
        esac
      }
      export -f answer
      exec busybox nc -ll -p 5432 -e ${lib.tools}/bin/bash -c answer
    '';
  };
  testScript = ''
    def ask(request: str) -> str:
        return db.succeed(f"echo '{request}' | nc -N localhost 5432").strip()

    db.start(allow_reboot=True)
    db.wait_for_open_port(5432)
    with subtest("the store answers"):
        assert ask("set colour green") == "ok"
        assert ask("get colour") == "green"

    with subtest("data survives a reboot"):
        db.reboot()
        db.wait_for_open_port(5432)
        assert ask("get colour") == "green"

    with subtest("data survives an orderly stop"):
        db.shutdown()
        db.start()
        db.wait_for_open_port(5432)
        assert ask("get colour") == "green"

    with subtest("data survives a power cut"):
        ask("set colour blue")
        db.crash()
        db.start()
        db.wait_for_open_port(5432)
        assert ask("get colour") == "blue"
  '';
}
