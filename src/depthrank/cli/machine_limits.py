"""What the system allows a server: open files, memory pages, a clock; and whether it can read what it shall serve."""

from __future__ import annotations

import time
from pathlib import Path

from depthrank.cli.machine_findings import Report
from depthrank.errors import DepthrankError

LEAST_OPEN_FILES = 4_096
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEMORY = Path("/proc/meminfo")
LEAST_MEMORY_BYTES = 1 << 30
SLACK_S = 60.0


def open_files(report: Report) -> None:
    """Each connection is a file."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    report.facts["open files"] = f"{soft:,} (at most {hard:,})"
    if 0 <= soft < LEAST_OPEN_FILES:
        report.advise(
            f"a process may open {soft:,} files",
            "every connection is one, so that a busy server would refuse connections with 'too many open files'",
            f"run `ulimit -n {LEAST_OPEN_FILES * 4}` before serving, or set LimitNOFILE in the systemd unit",
        )


def huge_pages(report: Report, setting: Path = HUGE_PAGES) -> None:
    """Tables are read at random, so that small pages cost a look-up each."""
    if not setting.exists():
        return
    modes = setting.read_text(encoding="ascii", errors="replace")
    chosen = modes.partition("[")[2].partition("]")[0]
    report.facts["transparent huge pages"] = chosen or modes.strip()
    if chosen == "never":
        report.advise(
            "transparent huge pages are off",
            "weights and tables are read at random, and every 4 KiB page of them costs a translation",
            "run `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` as root",
        )


def memory(report: Report, source: Path = MEMORY) -> None:
    """What is free for weights, tables and encoded histories."""
    if not source.exists():
        return
    fields = dict(line.split(":", 1) for line in source.read_text(encoding="ascii").splitlines() if ":" in line)
    available = int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
    report.facts["memory available"] = f"{available / 2**30:.1f} GiB"
    if available < LEAST_MEMORY_BYTES:
        report.advise(
            f"only {available / 2**30:.2f} GiB of memory are available",
            "a server that runs out of memory is killed, with every request under way",
            "stop other programs, or give the server less: --user-cache 64MB, --workers 1",
        )


def clock(report: Report, now_s: float | None = None) -> None:
    """Events carry times, and histories are read as of a time."""
    now_s = time.time() if now_s is None else now_s
    installed_s = Path(__file__).stat().st_mtime
    report.facts["clock"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < installed_s - SLACK_S:
        report.fault(
            "the clock is behind the time at which depthrank was installed",
            "events get the server's time and rankings read what lies before theirs, so new events would not be seen",
            "set the clock, and keep it set: `timedatectl set-ntp true`",
        )


def artifact_readable(report: Report, artifact: Path) -> None:
    """Whole, of a format that this version reads."""
    from depthrank.artifact import read_manifest
    from depthrank.artifact.manifest import verify_files

    try:
        manifest = read_manifest(artifact)
        verify_files(artifact, manifest)
    except DepthrankError as error:
        report.fault(
            str(error), "a server would not start with it", "train it again, or copy it again from where it was made"
        )
    else:
        report.facts["artifact"] = f"{manifest.model_id}, whole"


def log_readable(report: Report, url: str, now_s: float | None = None) -> None:
    """Opens, counts, and has no event beyond the clock."""
    from depthrank.events import open_log

    now_ms = (time.time() if now_s is None else now_s) * 1e3
    try:
        with open_log(url, read_only=True) as log:
            stats = log.stats()
    except DepthrankError as error:
        report.fault(str(error), "rankings would have no history", "start the log's server, or correct --log")
        return
    report.facts["log"] = (
        f"{url}: {stats.events:,} events of {stats.users:,} users, {stats.bytes_on_disk / 2**20:.1f} MiB"
    )
    if stats.last_time_ms is not None and stats.last_time_ms > now_ms + SLACK_S * 1e3:
        ahead_s = (stats.last_time_ms - now_ms) / 1e3
        report.advise(
            f"the newest event lies {ahead_s:,.0f} s ahead of this machine's clock",
            "it is not part of any history until then",
            "compare the clocks of this machine and of what wrote the event; `date -u` shows this one's",
        )
