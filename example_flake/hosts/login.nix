# A machine with Debian's systemd: services that people know, users, and a unit of its own.
{ lib }:
lib.runTest {
  name = "login";
  nodes.gate = {
    guest = "systemd";
    virtualisation.graphics = true;
    wants = [ "nginx.service" "ssh.service" ];
    users.alice.password = "wonderland";
    etc."nginx/conf.d/gate.conf" = ''
      server {
        listen 80;
        location / { return 200 "hello from nginx\n"; }
      }
    '';
    # Says so in the journal, and fails when it is told to.
    services.greeter = {
      script = ''
        trap "exit 3" USR1
        echo "at your service"
        sleep infinity & wait
      '';
      unit = "DynamicUser=yes";
    };
  };
  testScript = ''
    gate.wait_for_unit("multi-user.target")

    with subtest("systemd has started everything"):
        for unit in ("nginx", "ssh", "greeter"):
            gate.require_unit_state(f"{unit}.service")
        assert gate.succeed("systemctl is-system-running").strip() == "running"

    with subtest("nginx answers"):
        gate.wait_for_open_port(80)
        assert gate.succeed("curl -sf http://gate/") == "hello from nginx\n"
        assert gate.get_unit_property("greeter.service", "User") == "greeter"

    with subtest("a service's words are in the journal"):
        gate.wait_until_succeeds("journalctl -u greeter -o cat | grep -x 'at your service'")

    with subtest("alice logs in with a key"):
        gate.succeed(
            "ssh-keygen -q -t ed25519 -N ''' -f /root/.ssh/id_ed25519",
            "install -D -m 600 -o alice -g alice /root/.ssh/id_ed25519.pub ~alice/.ssh/authorized_keys",
            "chown alice: ~alice/.ssh",
        )
        ask = "id -un; loginctl show-session $XDG_SESSION_ID -p Name -p Service"
        answer = gate.succeed(f"ssh -o StrictHostKeyChecking=accept-new alice@gate '{ask}'")
        assert answer.split() == ["alice", "Name=alice", "Service=sshd"], answer

    with subtest("alice's own systemd"):
        gate.succeed("loginctl enable-linger alice")
        gate.wait_until_succeeds("test -S /run/user/1000/systemd/private")
        gate.wait_for_unit("default.target", user="alice")
        gate.succeed("loginctl disable-linger alice")

    with subtest("a failed unit is seen"):
        gate.succeed("systemctl kill -s USR1 greeter")
        with t.assertRaisesRegex(Exception, "unit greeter.service has failed"):
            gate.wait_for_unit("greeter.service")
        assert gate.get_unit_info("greeter.service")["ExecMainStatus"] == "3"

    with subtest("a person logs in"):
        gate.wait_until_tty_matches("1", "login: ")
        gate.send_chars("alice\n")
        gate.wait_until_tty_matches("1", "Password: ")
        gate.send_chars("wonderland\n")
        gate.wait_until_succeeds("loginctl show-seat seat0 -p ActiveSession --value | grep .")
        gate.screenshot("logged-in")

    gate.shutdown()
  '';
}
