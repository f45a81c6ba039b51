"""Unpacked Debian packages: whole or not at all, and asked for once. The tests bring their own apt-get and dpkg-deb."""

import os

import pytest

from e2e import debs

APT_GET = """#!/bin/sh
echo "$*" >>{calls}
case "$*" in
  *update*) touch {fresh}; exit 0;;
  *indextargets*)
    [ -e {fresh} ] && for suite in testing testing-updates; do echo "https://mirror.test/debian $suite"; done; exit 0;;
  *gone*) echo 'E: Unable to locate package gone' >&2; exit 100;;
esac
[ -e {fresh} ] || {{ echo 'E: 404' >&2; exit 100; }}
for word; do case "$word" in Dir::Cache::Archives=*) touch "${{word#*=}}/tool_1.2_amd64.deb";; esac; done
"""
DPKG_DEB = """#!/bin/sh
cd {scratch} && mkdir -p usr/bin && echo "$2" >usr/bin/tool && tar -c usr
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What apt-get was asked to do, a line each; its lists are out of date until it is asked to update them."""
    calls = tmp_path / "calls"
    scripts = {
        "apt-get": APT_GET.format(calls=calls, fresh=tmp_path / "fresh"),
        "dpkg-deb": DPKG_DEB.format(scratch=tmp_path / "scratch"),
    }
    for name in ("bin", "scratch"):
        (tmp_path / name).mkdir()
    for name, text in scripts.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    debs.unpacked.cache_clear()
    yield calls
    debs.unpacked.cache_clear()


def test_outdated_lists_are_renewed_and_the_packages_are_unpacked(calls):
    folder = debs.unpacked("tool")
    assert (folder / "usr/bin/tool").exists()
    assert (folder / "VERSIONS").read_text() == "tool_1.2_amd64\n"
    assert [("update" in line, "install" in line) for line in calls.read_text().splitlines()] == [
        (False, True), (True, False), (False, True),
    ]  # fmt: skip


def test_what_is_there_is_not_asked_for_again(calls):
    first = debs.unpacked("tool")
    debs.unpacked.cache_clear()
    calls.unlink()
    assert debs.unpacked("tool") == first
    assert not calls.exists()


def test_only_what_is_asked_for_is_downloaded_and_nothing_is_installed(calls):
    debs.unpacked("tool")
    installs = [line for line in calls.read_text().splitlines() if " install " in line]
    assert all("--download-only" in line and line.endswith(" tool") for line in installs)


def test_a_package_that_there_is_not_is_an_error_with_its_reason_and_leaves_nothing(calls, tmp_path):
    with pytest.raises(OSError, match="Unable to locate package gone"):
        debs.unpacked("gone")
    assert list((tmp_path / "cache/hotnic").iterdir()) == []


def test_backports_come_from_where_the_machines_packages_come_from(calls, tmp_path):
    script = tmp_path / "bin/apt-get"
    seen = tmp_path / "seen"
    copy = f'for word; do case "$word" in Dir::Etc::SourceList=*) cat "${{word#*=}}" >{seen};; esac; done\n'
    script.write_text(script.read_text().replace("case", copy + "case", 1))
    folder = debs.unpacked("tool", backports=True)
    assert "https://mirror.test/debian testing-backports main" in seen.read_text()
    assert any("APT::Default-Release=testing-backports" in line for line in calls.read_text().splitlines())
    assert folder != debs.unpacked("tool")
