# A machine that stops in its initrd, until a test tells it to go on.
{ lib }:
lib.runTest {
  name = "stages";
  nodes.stepper = {
    guest = "systemd";
    initrdBackdoor = true;
  };
  testScript = ''
    stepper.switch_root()
    stepper.wait_for_unit("multi-user.target")
  '';
}
