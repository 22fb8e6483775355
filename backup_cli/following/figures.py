"""The metrics of a copy that follows a backup, in the text format of Prometheus."""

from dataclasses import dataclass
from pathlib import Path

from backends.following.follower import News
from backends.node.files import replace_file
from backup_cli.following.copy_directory import Note
from backup_cli.prometheus import metrics_of_a_copy


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of the copy."""

    note: Note | None
    news: News | None
    well: bool
    """Whether the copy follows, without trouble."""
    failed: bool
    """Whether the backup was proved to be damaged, or to hold a change that cannot be replayed."""


def write_figures(path: Path, url: str, figures: Figures, now: float) -> None:
    """Replace the file `path`, which everybody may read, as node_exporter must. `now` is in seconds since 1970."""
    note, news = figures.note, figures.news
    in_step = 0 if note is None or note.in_step > now else note.in_step  # the clock may have been wrong then
    values: dict[str, float | None] = {
        "follow_in_step": int(figures.well and bool(news and news.in_step)),
        "follow_failed": int(figures.failed),
        "follow_in_step_timestamp_seconds": in_step or None,
        "follow_lag_changes": None if news is None else news.lag,
        "follow_lag_seconds": max(int(now) - in_step, 0) if in_step else None,
        "follow_data_version": None if note is None else note.data_version,
        "follow_last_change_timestamp_seconds": None if note is None else note.last_change or None,
        "follow_checked_timestamp_seconds": None if note is None else max(note.checked, note.rebuilt) or None,
        "follow_written_timestamp_seconds": int(now),
    }
    replace_file(path, metrics_of_a_copy(url, values).encode(), durably=False, mode=0o644)
