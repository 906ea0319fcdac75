"""Reads the pages beside this module.

Knows where they are and what each is called. Knows nothing of how they are rendered.
"""

from __future__ import annotations

from importlib.resources import files

from memaudit.errors import UsageError


def list_topics() -> dict[str, str]:
    """Return the heading of every page by topic, in alphabetical order."""
    pages = (page for page in files("memaudit.docs").iterdir() if page.name.endswith(".md"))
    texts = {page.name.removesuffix(".md"): page.read_text(encoding="utf-8") for page in pages}
    return {topic: _heading(texts[topic]) for topic in sorted(texts)}


def read_page(topic: str) -> str:
    """Return the Markdown of one page. Raises UsageError for an unknown topic."""
    topics = list_topics()
    if topic not in topics:
        raise UsageError(f"help {topic}: no such topic; choose {', '.join(topics)}")
    return (files("memaudit.docs") / f"{topic}.md").read_text(encoding="utf-8")


def _heading(page: str) -> str:
    return page.partition("\n")[0].removeprefix("# ")
