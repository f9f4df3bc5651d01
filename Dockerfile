# docker build -t gra-portrait-editor .                          CPU (default)
# docker build -t gra-portrait-editor --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# docker run --rm -p 7860:7860 gra-portrait-editor               then open http://127.0.0.1:7860 (CUDA: add --gpus all)
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# requirements-text.lock also brings edits in words.
ARG REQUIREMENTS=requirements.lock

# An ordinary user, as Hugging Face Spaces expects, by number: Kubernetes' runAsNonRoot does not look names up.
RUN useradd --create-home --uid 1000 editor
WORKDIR /home/editor/app

COPY requirements.txt requirements.lock requirements-text.lock ./
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir --require-hashes -r "$REQUIREMENTS"

COPY --chown=1000 . .
USER 1000
ENV GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 GRADIO_ANALYTICS_ENABLED=False
EXPOSE 7860

# Healthy when the page answers. The weights load after that, in the background.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py"]
