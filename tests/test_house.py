"""What must agree outside the code: the package and its pins, the scripts, the size of what is in git."""

import re
import runpy
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import megatrain

ROOT = Path(__file__).resolve().parent.parent
LARGEST_FILE_BYTES = 3 * 1024 * 1024


@cache
def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return dict(setup.call_args.kwargs)


def requirements() -> list[Requirement]:
    arguments = setup_arguments()
    groups = [arguments["install_requires"], *arguments["extras_require"].values()]
    return [Requirement(line) for group in groups for line in group]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in rows}


def in_git() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone, or no git here")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_setup_states_the_version_of_the_package() -> None:
    assert setup_arguments()["version"] == megatrain.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", megatrain.__version__)


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} of setup.py is not in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} excludes {version}"


def test_pins_are_exact_and_what_they_need_is_pinned_too() -> None:
    pinned = pins()
    assert all(re.fullmatch(r"[\w.]+", version) for version in pinned.values()), "a local tag or a range"
    for name in pinned:
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # an extra that is not installed here
        for requirement in map(Requirement, needs):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if canonicalize_name(requirement.name).startswith(("nvidia-", "cuda-", "triton")):
                continue  # pinned by torch's CUDA build itself
            assert canonicalize_name(requirement.name) in pinned, f"{requirement.name}, for {name}"


def test_what_is_installed_is_what_is_pinned() -> None:
    """The suite's results are for these versions."""
    for requirement in requirements():
        try:
            installed = distribution(requirement.name).version.split("+")[0]
        except PackageNotFoundError:
            continue
        assert installed == pins()[canonicalize_name(requirement.name)], requirement.name


def test_every_python_package_is_in_the_wheel() -> None:
    packages = set(setup_arguments()["packages"])
    for path in in_git():
        parts = path.relative_to(ROOT).parts
        if path.suffix == ".py" and parts[0] in ("megatrain", "data_tools", "launch"):
            assert ".".join(parts[:-1]) in packages, f"{'/'.join(parts[:-1])} has no __init__.py"


def test_shell_scripts_parse_and_stop_at_errors() -> None:
    scripts = [path for path in in_git() if path.suffix in (".sh", ".sbatch") or path.parent.name == ".ci"]
    assert scripts
    for path in scripts:
        checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert re.search(r"^set -e?uo pipefail$", path.read_text(), re.MULTILINE), (
            f"{path} lacks set -euo pipefail"
        )


def test_no_file_in_git_is_large() -> None:
    large = {str(path): path.stat().st_size for path in in_git() if path.stat().st_size > LARGEST_FILE_BYTES}
    assert large == {}


def test_the_environment_script_refuses_a_wrong_word() -> None:
    script = ROOT / "launch" / "environment.sh"
    refused = subprocess.run(["bash", str(script), "everything"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "say run or dev" in refused.stderr


def test_links_between_pages_lead_somewhere() -> None:
    pages = {path: prose(path) for path in in_git() if path.suffix == ".md"}
    for path, text in pages.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if "://" not in link:
                assert target.exists(), f"{path}: {link}"
                assert not anchor or anchor in anchors(pages[target]), f"{path}: {link}: no such heading"


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """As hosting sites make them of headings."""
    headings = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", one) for one in re.findall(r"(?m)^#+ (.*)$", text))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
