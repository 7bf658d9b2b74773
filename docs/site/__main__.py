"""Builds the documentation site: the course, the guides, the reference, the benchmarks.

python docs/site            into build/site; every lesson is executed, a dead link is an error
python docs/site --serve    and shows it on http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from gather import gather
from lessons import ROOT
from links import dead

SITE = ROOT / "build" / "site"
MKDOCS = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(ROOT / "mkdocs.yml"))


def main() -> None:
    """Reads the command line. What MkDocs warns of, and every dead link, is an error."""
    parser = argparse.ArgumentParser(
        prog="docs/site", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", action="store_true", help="show it on this machine afterwards")
    arguments = parser.parse_args()
    gather()
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's notice of its successor
    if subprocess.run(MKDOCS, check=False, env=quiet).returncode:
        sys.exit("mkdocs would not build what is in build/pages: see above")
    if found := dead(SITE):
        sys.exit("dead links:\n  " + "\n  ".join(found))
    print(f"{sum(1 for _ in SITE.rglob('*.html'))} pages in {SITE.relative_to(ROOT)}, no dead link")
    if arguments.serve:
        print("http://127.0.0.1:8000 (Ctrl-C ends it)")
        ThreadingHTTPServer(("127.0.0.1", 8000), partial(SimpleHTTPRequestHandler, directory=SITE)).serve_forever()


if __name__ == "__main__":
    main()
