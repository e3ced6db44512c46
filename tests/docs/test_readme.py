import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
MARK = re.compile(r"<!-- generated: (\w+) -->")


def test_the_generated_tables_are_current(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(README)

    subprocess.run([sys.executable, str(Path(__file__).with_name("tables.py")), str(copy)], check=True)

    assert set(MARK.findall(README)) == {"metrics", "errors", "configuration", "rules"}
    assert copy.read_text() == README, "run: make docs"


def test_the_writer_changes_a_stale_table_and_nothing_else(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text("before\n<!-- generated: errors -->\nstale\n<!-- end -->\nafter\n")

    subprocess.run([sys.executable, str(Path(__file__).with_name("tables.py")), str(copy)], check=True)

    written = copy.read_text()
    assert "stale" not in written
    assert "| 401 | `invalid_api_key` | no |" in written
    assert written.startswith("before\n<!--")
    assert written.endswith("<!-- end -->\nafter\n")


def test_links_within_the_tree_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", README)

    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_anchors_lead_to_headings():
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }

    assert [anchor for anchor in re.findall(r"\]\(#([\w-]+)\)", README) if anchor not in headings] == []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)", README))))
def test_the_make_targets_it_names_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_commands_it_names_exist():
    from suffice.server.cli import app  # noqa: PLC0415
    from typer.main import get_command  # noqa: PLC0415

    known = get_command(app).commands
    named = set(re.findall(r"(?:^\$ |`)suffice (\w+)", README, re.MULTILINE))
    assert {"serve", "keys"} <= named <= set(known)
