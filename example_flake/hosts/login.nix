# A machine with Debian's systemd: services that people know, users, and a unit of its own.
{ lib }:
lib.runTest {
  name = "login";
  nodes.gate = {
    guest = "systemd";
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
    gate.start(allow_reboot=True)
    gate.wait_until_succeeds("systemctl is-active multi-user.target")

    with subtest("systemd has started everything"):
        assert gate.succeed("systemctl is-system-running").strip() == "running"
        gate.succeed("systemctl is-active nginx ssh greeter")

    with subtest("nginx answers"):
        gate.wait_for_open_port(80)
        assert gate.succeed("curl -sf http://gate/") == "hello from nginx\n"
        assert gate.succeed("systemctl show -p User greeter").strip() == "User=greeter"

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
        user = "su -l alice -c 'XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user is-active default.target'"
        gate.wait_until_succeeds(user)
        gate.succeed("loginctl disable-linger alice")

    with subtest("a failed unit is seen"):
        gate.succeed("systemctl kill -s USR1 greeter")
        gate.wait_until_succeeds("systemctl is-failed greeter")
        assert "greeter.service" in gate.succeed("systemctl --failed --plain --no-legend")
        assert gate.succeed("systemctl show -p ExecMainStatus greeter").strip() == "ExecMainStatus=3"

    with subtest("the disk outlives a reboot, failures do not"):
        gate.reboot()
        gate.connect()
        gate.succeed("test -e ~alice/.ssh/authorized_keys")
        gate.fail("systemctl is-failed greeter")

    gate.shutdown()
  '';
}
