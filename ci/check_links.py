"""Checks that each link of each Markdown page leads to a file, and to a heading where it names one."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The name under which a renderer of Markdown offers a heading as a target."""
    text = re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def pages() -> list[Path]:
    """The Markdown pages of the repository, without those of tools and libraries that lie in it."""
    found = []
    for page in ROOT.glob("**/*.md"):
        parts = page.relative_to(ROOT).parts
        if parts[0] not in ("target", "dist") and not any(part.startswith(".") for part in parts):
            found.append(page)
    return sorted(found)


def main() -> int:
    broken = 0
    for page in pages():
        for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue  # Another site's pages are not ours to check.
            path, _, fragment = target.partition("#")
            destination = (page.parent / path).resolve() if path else page
            if not destination.exists():
                print(f"{page.relative_to(ROOT)}: {target} leads nowhere")
                broken += 1
            elif fragment and destination.suffix == ".md" and fragment not in anchors(destination):
                print(f"{page.relative_to(ROOT)}: {target}: that page has no such heading")
                broken += 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
