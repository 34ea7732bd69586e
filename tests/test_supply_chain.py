"""What is installed has a hash in a lock file, and the list of it is complete."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_MAKEFILE = (_ROOT / "Makefile").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", ".ci/run"])
def test_whatever_is_installed_from_an_index_has_a_hash_that_is_known(name: str) -> None:
    text = (_ROOT / name).read_text().replace("\\\n", " ")
    installs = re.findall(r"(?:pip|\$\(PIP\)) install ([^\n&|;]*)", text)
    assert len(installs) == {"Makefile": 4, "Dockerfile": 3, ".ci/run": 0}[name]
    for arguments in installs:
        ours = "--no-deps" in arguments and ("--editable ." in arguments or "--no-index" in arguments)
        # What renews the lock files cannot be in them.
        assert "--require-hashes" in arguments or ours or arguments.strip() == "uv"


def test_the_gate_installs_and_runs_nothing_but_what_make_check_does() -> None:
    assert (_ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make check")


def test_the_bill_of_materials_names_every_pin_of_the_runtime_with_its_hashes(tmp_path: Path) -> None:
    found = re.search(r"\$\(BIN\)/cyclonedx-py (.*) --output-file \S+ (\S+)", _MAKEFILE)
    assert found
    file, lock = tmp_path / "sbom.json", _ROOT / found[2]
    program = Path(sys.executable).parent / "cyclonedx-py"
    subprocess.run(
        [program, *found[1].split(), "--output-file", file, lock], cwd=_ROOT, check=True, capture_output=True
    )
    bill = json.loads(file.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "outbox-dispatcher")
    listed = {
        (component["name"], component["version"]): {
            one["content"] for reference in component["externalReferences"] for one in reference["hashes"]
        }
        for component in bill["components"]
    }
    pinned = {
        (name, version): set(re.findall(r"--hash=sha256:(\w+)", rest))
        for name, version, rest in re.findall(
            r"^([a-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)((?:.*\\\n)*.*)", lock.read_text(), re.MULTILINE
        )
    }
    assert len(pinned) > 20
    assert listed == pinned


def test_an_audit_reads_every_lock_file_and_trusts_no_resolver() -> None:
    found = re.search(r"\$\(BIN\)/pip-audit (.*)", _MAKEFILE)
    assert found
    assert {"--require-hashes", "--disable-pip"} <= set(found[1].split())
    assert set(re.findall(r"--requirement (\S+)", found[1])) == {path.name for path in _ROOT.glob("requirements*.lock")}
