"""A preprocessor of mdBook: makes links to files outside of docs/ absolute, since the book does not have these.

They lead to this checkout, or to the address in PLAQUE_REPOSITORY: https://git.example/plaque/blob/main
"""

import json
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = os.environ.get("PLAQUE_REPOSITORY", DOCS.parent.as_uri()).rstrip("/")


def rewritten(text, page):
    def absolute(link):
        path = Path(os.path.normpath((DOCS / page).parent / link[1]))
        return link[0] if path.is_relative_to(DOCS) else f"]({REPOSITORY}/{path.relative_to(DOCS.parent)}{link[2] or ''})"

    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]+)?\)", absolute, text)


def rewrite(items):
    for item in items:
        if chapter := isinstance(item, dict) and item.get("Chapter"):
            chapter["content"] = rewritten(chapter["content"], chapter["path"])
            rewrite(chapter["sub_items"])


if sys.argv[1:2] != ["supports"]:  # mdBook's question whether it supports a renderer: any
    _, book = json.load(sys.stdin)
    rewrite(book["items"])
    json.dump(book, sys.stdout)
