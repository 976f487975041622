"""JUnit XML for a driver's run: one case for each subtest, one for the whole script."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from pytest_nixos.model import Subtest
from pytest_nixos.vm.log import neutralise


def write(path: Path, cases: Iterable[Subtest]) -> None:
    """Write the cases of a run to path."""
    cases = list(cases)
    failures = sum(1 for case in cases if case.error)
    suite = ElementTree.Element("testsuite", name="NixOS test", tests=str(len(cases)), failures=str(failures))
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", name=case.name, time=f"{case.seconds:.3f}")
        if case.error:
            lines = [neutralise(line) for line in case.error.splitlines()]
            ElementTree.SubElement(element, "failure", message=lines[0]).text = "\n".join(lines)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
