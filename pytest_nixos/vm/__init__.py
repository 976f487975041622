"""The NixOS test driver: virtual machines, their consoles and the test scripts that use them.

Runs as `python -m pytest_nixos.vm`, with the options of the NixOS test driver, or as a library:
`with Driver(...) as driver: driver.machines[0].succeed("true")`. Knows neither pytest nor flakes.
"""
