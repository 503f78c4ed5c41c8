"""HTML pages as tests read them."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br"}


class Outline(HTMLParser):
    """What a page holds; fails on elements that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def assert_fetches_nothing(page: str) -> None:
    outline = Outline(page)
    assert {"script", "link", "img", "iframe"} & {tag for tag, _ in outline.elements} == set()
    targets = {value for _, attributes in outline.elements for name, value in attributes.items() if "href" in name}
    assert all(str(target).startswith("#") for target in targets)
    assert "url(http" not in page
    assert "@import" not in page
