"""The web editor: `python app.py`, `make app`, or a Hugging Face Space."""

import sys

from gra_core.ui import temp_dir

if __name__ == "__main__":
    temp_dir.claim()  # before Gradio is imported

from gra_core.errors import GRAError
from gra_core.ui.page import build_page, launch_options

try:
    demo = build_page()
except GRAError as error:
    print(error, file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    demo.launch(**launch_options(demo))
