"""The borders between the rooms, read from the code's own imports."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_nixos"
MODULES = sorted(PACKAGE.rglob("*.py"))
GROUND = {f"pytest_nixos{part}" for part in ("", ".model", ".errors", ".host", ".proc", ".deadline")}

# Who alone may import it; a folder means all modules in it.
OWNERS = {
    "pytest": {"plugin", "hooks", "options", "collection", "session", "recorder", "fixtures"}
    | {"progress", "reporting", "inquiries", "subtests", "interactive", "python_tests", "marked"},
    "_pytest": {"plugin", "subtests", "python_tests"},
    "filelock": {"rundir", "records.stores.git"},
    "cryptography": {"records.signing"},
    "urllib3": {"records.http"},
    "pexpect": {"vm.console", "vm.terminal"},
    "subprocess": {"proc", "vm.process"},
    "xdist": set[str](),
}


def name(module: Path) -> str:
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(module: Path) -> set[str]:
    """The modules that a file imports, with the names of `from package import module` resolved."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (PACKAGE.parent / node.module.replace(".", "/") / f"{alias.name}.py").exists()
            }
    return found


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owners_only(library: str) -> None:
    users = {name(m) for m in MODULES if any(i.split(".")[0] == library for i in imports(m))}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("room", ["nix", "records", "vm"])
def test_a_room_looks_at_itself_and_the_ground_only(room: str) -> None:
    for module in (PACKAGE / room).rglob("*.py"):
        own = {i for i in imports(module) if i.startswith("pytest_nixos")}
        strangers = {i for i in own if i not in GROUND and not i.startswith(f"pytest_nixos.{room}")}
        assert not strangers, f"{module.relative_to(PACKAGE)} imports {strangers}"


@pytest.mark.parametrize("module", ["model", "errors", "host", "proc", "deadline"])
def test_the_ground_needs_the_standard_library_only(module: str) -> None:
    found = {i for i in imports(PACKAGE / f"{module}.py") if i.split(".")[0] not in sys.stdlib_module_names}
    assert found <= {"pytest_nixos.errors", "pytest_nixos.model"}
