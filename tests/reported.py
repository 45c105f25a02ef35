"""What work reports, kept in a list."""

from pipeline.progress import Progress


class Lines(list[str]):
    """Takes what work reports (`pipeline.progress.Progress`), in order."""

    def say(self, line: str) -> None:
        self.append(line)

    def update(self, line: str, subject: str = "") -> None:
        self.append(f"{subject}: {line}" if subject else line)

    def stage(self, name: str) -> None:
        self.append(name)


def reported(progress: Progress | None) -> Progress:
    """What a test gave, or something that keeps what nobody reads."""
    return Lines() if progress is None else progress
