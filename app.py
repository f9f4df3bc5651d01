"""The web editor: `python app.py`, `make app`, or a Hugging Face Space."""

from gra_core.ui import own_folder

if __name__ == "__main__":
    own_folder.claim()  # before Gradio is imported

from gra_core.ui.page import build_page, launch_options

demo = build_page()

if __name__ == "__main__":
    demo.launch(**launch_options(demo))
